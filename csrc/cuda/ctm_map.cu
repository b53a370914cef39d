// SPDX-License-Identifier: Apache-2.0
#include "ctm_map.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {CTM_MAP_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void ctm_map(const CtmMapArgs& a, Stream stream) {
  const DeviceOf device("ctm_map", a.blend.x.data);
  run("ctm_map", plan(a), kernels, parameters(a), stream);
}

void ctm_map_backward(const CtmMapBackwardArgs& a, Stream stream) {
  const DeviceOf device("ctm_map_backward", a.blend.dy.data);
  run("ctm_map_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
