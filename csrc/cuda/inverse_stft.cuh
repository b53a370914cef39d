// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/inverse_stft.h.
#pragma once
#include "frames.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const InverseStftArgs& a) {
  LaunchPlan p;
  p.add("inverse_stft", 0, a.batch * ceil_div(a.frames, kRowsOfBlock), frame_threads(a.n_fft),
        frame_bytes(a.n_fft, true));
  return p;
}
inline LaunchPlan plan(const InverseStftBackwardArgs& a) {
  const InverseStftArgs& f = a.forward;
  LaunchPlan p;
  p.add("inverse_stft_backward", 1, f.batch * ceil_div(f.frames, kFramesOfBlock), frame_threads(f.n_fft),
        frame_bytes(f.n_fft, false));
  return p;
}
inline const InverseStftArgs& parameters(const InverseStftArgs& a) { return a; }
inline const InverseStftBackwardArgs& parameters(const InverseStftBackwardArgs& a) { return a; }

extern "C" __global__ void __launch_bounds__(kFrameThreads, 1)
    inverse_stft_rows(const __grid_constant__ InverseStftArgs a) {
  DYNAMIC_SHARED(float2, shared);
  synthesise_rows(a, shared);
}

extern "C" __global__ void __launch_bounds__(kFrameThreads, 1)
    inverse_stft_backward_frames(const __grid_constant__ InverseStftBackwardArgs a) {
  DYNAMIC_SHARED(float2, shared);
  const InverseStftArgs& f = a.forward;
  for_frames(f, shared, [&](FrameBlock& block, int64_t b, int64_t t) {
    const int n = block.n, m = block.m, hop = block.hop;
    const auto sample = [&](int i) {
      const int64_t s = t * hop - m + i, row = s / hop;
      if (s < 0 || row >= f.frames) return 0.0f;
      const float scale = block.row_scale(row, static_cast<int>(s - row * hop), f.frames);
      return block.weight(i) * scale * a.dsignal[b * f.frames * hop + s];
    };
    const float *log_magnitude = row_of(f.log_magnitude, b, t), *phase = row_of(f.phase, b, t);
    const int64_t at = (b * f.frames + t) * (m + 1);
    const auto put = [&](int k, float2 r, float scale) {
      const float2 x = bin_of(log_magnitude, phase, k);
      if (a.dlog_magnitude) a.dlog_magnitude[at + k] = scale * (x.x * r.x + x.y * r.y);
      if (a.dphase) a.dphase[at + k] = scale * (x.x * r.y - x.y * r.x);
    };
    block.spectrum([&](int i) { return make_float2(sample(2 * i), sample(2 * i + 1)); },
                   [&](int k, float2 low, float2 high) {
                     const float scale = (k == 0 ? 0.5f : 1.0f) / static_cast<float>(n);
                     put(k, low, scale);
                     if (k < m / 2) put(m - k, high, scale);
                   });
  });
}

#define INVERSE_STFT_KERNELS(X) X(inverse_stft_rows) X(inverse_stft_backward_frames)
#define INVERSE_STFT_PLANS(X) X(inverse_stft, InverseStftArgs) X(inverse_stft_backward, InverseStftBackwardArgs)

}  // namespace prestissimo::cuda
