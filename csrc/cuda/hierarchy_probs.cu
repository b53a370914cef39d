// SPDX-License-Identifier: Apache-2.0
#include "hierarchy_probs.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {HIERARCHY_PROBS_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void hierarchy_probs(const HierarchyProbsArgs& a, Stream stream) {
  const DeviceOf device("hierarchy_probs", a.x);
  run("hierarchy_probs", plan(a), kernels, parameters(a), stream);
}

void hierarchy_probs_backward(const HierarchyProbsBackwardArgs& a, Stream stream) {
  const DeviceOf device("hierarchy_probs_backward", a.forward.x);
  run("hierarchy_probs_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
