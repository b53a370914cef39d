// SPDX-License-Identifier: Apache-2.0
#include "threshold_topk.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {THRESHOLD_TOPK_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void threshold_topk(const ThresholdTopkArgs& a, Stream stream) {
  const DeviceOf device("threshold_topk", a.rows.scores);
  run("threshold_topk", plan(a), kernels, parameters(a), stream);
}

void threshold_topk_backward(const ThresholdTopkBackwardArgs& a, Stream stream) {
  const DeviceOf device("threshold_topk_backward", a.rows.scores);
  run("threshold_topk_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
