// SPDX-License-Identifier: Apache-2.0
#include "graft_update.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {GRAFT_UPDATE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void graft_update(const GraftUpdateArgs& a, Stream stream) {
  const DeviceOf device("graft_update", a.magnitude);
  run("graft_update", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
