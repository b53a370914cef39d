// SPDX-License-Identifier: Apache-2.0
#include "dynamic_threshold.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {DYNAMIC_THRESHOLD_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void dynamic_threshold(const DynamicThresholdArgs& a, Stream stream) {
  const DeviceOf device("dynamic_threshold", a.x.data);
  const ThresholdCounts counts{a};
  run("dynamic_threshold", plan(counts), kernels, parameters(a), stream);
  run("dynamic_threshold", plan(a), kernels, parameters(a), stream);
}

void dynamic_threshold_backward(const DynamicThresholdBackwardArgs& a, Stream stream) {
  const DeviceOf device("dynamic_threshold_backward", a.x.data);
  run("dynamic_threshold_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
