// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/spectrum_from_bands.h. One block a row; backward a thread a band, which walks over the bins in order.
#pragma once
#include "../ops/spectrum_from_bands.h"
#include "launch.h"
#include "math.cuh"
#include "ptx.cuh"

namespace prestissimo::cuda {

constexpr int kSpectrumThreads = 256;
constexpr int64_t kMostSpectrumBins = 12288;  // a float each in shared memory

inline LaunchPlan plan(const SpectrumFromBandsArgs& a) {
  LaunchPlan p;
  p.add("spectrum_from_bands", 0, a.batch * a.channels * a.frames, kSpectrumThreads);
  return p;
}
inline LaunchPlan plan(const SpectrumFromBandsBackwardArgs& a) {
  const char* op = "spectrum_from_bands_backward";
  const SpectrumFromBandsArgs& f = a.forward;
  if (f.bins > kMostSpectrumBins) fail(op, "dy has " + std::to_string(f.bins) + " bins, more than 12288 on a GPU");
  LaunchPlan p;
  p.add(op, 1, f.batch * f.channels * f.frames, kSpectrumThreads, static_cast<uint32_t>(4 * f.bins));
  return p;
}
inline const SpectrumFromBandsArgs& parameters(const SpectrumFromBandsArgs& a) { return a; }
inline const SpectrumFromBandsBackwardArgs& parameters(const SpectrumFromBandsBackwardArgs& a) { return a; }

struct SpectrumPlace {
  int64_t row, b, c, t;

  PRESTISSIMO_DEVICE explicit SpectrumPlace(const SpectrumFromBandsArgs& a) {
    const uint32_t r = blockIdx.x, frames = static_cast<uint32_t>(a.frames);
    row = r;
    t = r % frames;
    c = r / frames % static_cast<uint32_t>(a.channels);
    b = r / frames / static_cast<uint32_t>(a.channels);
  }
  PRESTISSIMO_DEVICE const float* of(const SpectrumRows& v) const {
    return v.data + b * v.batch_stride + c * v.channel_stride + t * v.frame_stride;
  }
  PRESTISSIMO_DEVICE const float* noise(const SpectrumFromBandsArgs& a) const {
    return a.noise + (c * a.period + (a.first + t) % a.period) * a.bins;
  }
};

PRESTISSIMO_DEVICE float between(const float* v, const Interpolation& of, int j) {
  const int lower = of.lower[j];
  return __fmaf_rn(v[lower + 1] - v[lower], of.share[j], v[lower]);
}
// min(0, s), NaN as it is.
PRESTISSIMO_DEVICE float noise_share(float s) { return exponential(s > 0.0f ? 0.0f : s); }

extern "C" __global__ void __launch_bounds__(kSpectrumThreads, 1)
    spectrum_from_bands_rows(const __grid_constant__ SpectrumFromBandsArgs a) {
  const SpectrumPlace at(a);
  const int F = static_cast<int>(a.bins);
  const float *bands = at.of(a.bands), *residual = at.of(a.residual), *offset = a.offset + at.c * F;
  const float *spread = a.noise ? at.of(a.spread) : nullptr, *noise = a.noise ? at.noise(a) : nullptr;
  float* y = a.y + at.row * F;
  for (int j = threadIdx.x; j < F; j += kSpectrumThreads) {
    float v = between(bands, a.band, j) + (residual[j] + offset[j]);
    if (noise) v = __fmaf_rn(noise_share(between(spread, a.spreads, j)), noise[j], v);
    y[j] = v;
  }
}

// out[i] = sum_j v[j] (share of i in j), in the order of j
PRESTISSIMO_DEVICE void give_back(const float* v, const Interpolation& of, int bins, float* out) {
  for (int i = threadIdx.x; i < static_cast<int>(of.count); i += kSpectrumThreads) {
    float sum = 0.0f;
    for (int j = 0; j < bins; ++j) {
      const int lower = of.lower[j];
      const float high = v[j] * of.share[j];
      if (lower == i) sum += v[j] - high;
      if (lower + 1 == i) sum += high;
    }
    out[i] = sum;
  }
}

extern "C" __global__ void __launch_bounds__(kSpectrumThreads, 1)
    spectrum_from_bands_backward_rows(const __grid_constant__ SpectrumFromBandsBackwardArgs a) {
  DYNAMIC_SHARED(float, part);  // [F]
  const SpectrumFromBandsArgs& f = a.forward;
  const SpectrumPlace at(f);
  const int F = static_cast<int>(f.bins);
  const float* dy = a.dy + at.row * F;
  for (int j = threadIdx.x; j < F; j += kSpectrumThreads) part[j] = dy[j];
  __syncthreads();
  if (a.dbands) give_back(part, f.band, F, a.dbands + at.row * f.band.count);
  if (!a.dspread) return;
  __syncthreads();
  const float *spread = at.of(f.spread), *noise = at.noise(f);
  for (int j = threadIdx.x; j < F; j += kSpectrumThreads) {
    const float s = between(spread, f.spreads, j);
    part[j] = s > 0.0f ? 0.0f : dy[j] * noise[j] * exponential(s);
  }
  __syncthreads();
  give_back(part, f.spreads, F, a.dspread + at.row * f.spreads.count);
}

#define SPECTRUM_FROM_BANDS_KERNELS(X) X(spectrum_from_bands_rows) X(spectrum_from_bands_backward_rows)
#define SPECTRUM_FROM_BANDS_PLANS(X) \
  X(spectrum_from_bands, SpectrumFromBandsArgs) X(spectrum_from_bands_backward, SpectrumFromBandsBackwardArgs)

}  // namespace prestissimo::cuda
