// SPDX-License-Identifier: Apache-2.0
#include "hidden_variance.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {HIDDEN_VARIANCE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void hidden_variance(const HiddenVarianceArgs& a, Stream stream) {
  const DeviceOf device("hidden_variance", a.x.data);
  run("hidden_variance", plan(a), kernels, parameters(a), stream);
}

void hidden_variance_backward(const HiddenVarianceBackwardArgs& a, Stream stream) {
  const DeviceOf device("hidden_variance_backward", a.x.data);
  run("hidden_variance_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
