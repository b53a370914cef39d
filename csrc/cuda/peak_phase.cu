// SPDX-License-Identifier: Apache-2.0
#include "peak_phase.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {PEAK_PHASE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void peak_phase(const PeakPhaseArgs& a, Stream stream) {
  const DeviceOf device("peak_phase", a.log_magnitude);
  run("peak_phase", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
