// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/project_phase.h. A round is two launches: rows of the signal, then the angles of its frames.
#pragma once
#include "../ops/project_phase.h"
#include "frames.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const ProjectPhaseArgs& a) {
  LaunchPlan p;
  p.add("project_phase", 0, a.batch * ceil_div(a.frames, kRowsOfBlock), frame_threads(a.n_fft),
        frame_bytes(a.n_fft, true));
  p.add("project_phase", 1, a.batch * ceil_div(a.frames, kFramesOfBlock), frame_threads(a.n_fft),
        frame_bytes(a.n_fft, false));
  return p;
}

struct ProjectPhaseParameters {
  InverseStftArgs inverse;
  float* projected;
};
inline ProjectPhaseParameters parameters(const ProjectPhaseArgs& a) {
  return {{a.log_magnitude, a.phase, a.window, a.signal, a.batch, a.frames, a.n_fft, a.hop}, a.projected};
}

extern "C" __global__ void __launch_bounds__(kFrameThreads, 1)
    project_phase_rows(const __grid_constant__ ProjectPhaseParameters a) {
  DYNAMIC_SHARED(float2, shared);
  synthesise_rows(a.inverse, shared);
}

extern "C" __global__ void __launch_bounds__(kFrameThreads, 1)
    project_phase_frames(const __grid_constant__ ProjectPhaseParameters a) {
  DYNAMIC_SHARED(float2, shared);
  const InverseStftArgs& f = a.inverse;
  for_frames(f, shared, [&](FrameBlock& block, int64_t b, int64_t t) {
    const int m = block.m;
    const int64_t first = t * block.hop - m, samples = f.frames * block.hop;
    const float* signal = f.signal + b * samples;
    float* out = a.projected + (b * f.frames + t) * (m + 1);
    const auto sample = [&](int i) {
      const int64_t s = first + i;
      return s >= 0 && s < samples ? block.weight(i) * signal[s] : 0.0f;
    };
    block.spectrum([&](int i) { return make_float2(sample(2 * i), sample(2 * i + 1)); },
                   [&](int k, float2 low, float2 high) {
                     out[k] = angle(low.x, low.y);
                     if (k < m / 2) out[m - k] = angle(high.x, high.y);
                   });
  });
}

#define PROJECT_PHASE_KERNELS(X) X(project_phase_rows) X(project_phase_frames)
#define PROJECT_PHASE_PLANS(X) X(project_phase, ProjectPhaseArgs)

}  // namespace prestissimo::cuda
