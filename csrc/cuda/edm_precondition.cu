// SPDX-License-Identifier: Apache-2.0
#include "edm_precondition.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {EDM_PRECONDITION_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void edm_precondition(const EdmPreconditionArgs& a, Stream stream) {
  const DeviceOf device("edm_precondition", a.blend.x.data);
  run("edm_precondition", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
