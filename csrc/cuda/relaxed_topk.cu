// SPDX-License-Identifier: Apache-2.0
#include "relaxed_topk.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {RELAXED_TOPK_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void relaxed_topk(const RelaxedTopkArgs& a, Stream stream) {
  const DeviceOf device("relaxed_topk", a.rows.scores);
  run("relaxed_topk", plan(a), kernels, parameters(a), stream);
}

void relaxed_topk_backward(const RelaxedTopkBackwardArgs& a, Stream stream) {
  const DeviceOf device("relaxed_topk_backward", a.rows.scores);
  run("relaxed_topk_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
