// SPDX-License-Identifier: Apache-2.0
#include "squared_norm.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {SQUARED_NORM_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void squared_norm(const SquaredNormArgs& a, Stream stream) {
  const DeviceOf device("squared_norm", a.total ? a.total : a.partial);  // no blocks: partial is empty
  run("squared_norm", plan(a), kernels, parameters(a), stream);
}

void squared_norm_backward(const SquaredNormBackwardArgs& a, Stream stream) {
  const DeviceOf device("squared_norm_backward", a.dtotal);
  run("squared_norm_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
