// SPDX-License-Identifier: Apache-2.0
#include "project_phase.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {PROJECT_PHASE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void project_phase(const ProjectPhaseArgs& a, Stream stream) {
  const DeviceOf device("project_phase", a.log_magnitude.data);
  run("project_phase", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
