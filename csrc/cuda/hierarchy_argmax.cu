// SPDX-License-Identifier: Apache-2.0
#include "hierarchy_argmax.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {HIERARCHY_ARGMAX_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void hierarchy_argmax(const HierarchyArgmaxArgs& a, Stream stream) {
  const DeviceOf device("hierarchy_argmax", a.x);
  run("hierarchy_argmax", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
