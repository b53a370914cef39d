// SPDX-License-Identifier: Apache-2.0
#include "apg_combine.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {APG_COMBINE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void apg_combine(const ApgCombineArgs& a, Stream stream) {
  const DeviceOf device("apg_combine", a.y.data);
  run("apg_combine", plan(a), kernels, parameters(a), stream);
}

void apg_combine_backward(const ApgCombineBackwardArgs& a, Stream stream) {
  const DeviceOf device("apg_combine_backward", a.dy.data);
  run("apg_combine_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
