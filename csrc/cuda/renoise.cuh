// SPDX-License-Identifier: Apache-2.0
// Formula: ops/renoise.h.
#pragma once
#include "frame_noise.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const RenoiseArgs& a) {
  LaunchPlan p;
  p.add("renoise", type_index(a.dtype), noise_blocks(a.batch, a.channels, a.frames), kNoiseThreads);
  return p;
}
inline const RenoiseArgs& parameters(const RenoiseArgs& a) { return a; }

template <class T>
PRESTISSIMO_DEVICE void renoise_body(const RenoiseArgs& a) {
  const NoiseShare at(a.channels, a.frames);
  if (at.t >= a.frames) return;
  const int64_t first = at.c * a.frames + at.t;
  const T* x = sample<T>(a.x, at.b) + first;
  T* y = sample<T>(a.y, at.b) + first;
  const float sigma = a.sigma[at.b];
  float v[4];
#pragma unroll
  for (int w = 0; w < 4; ++w)
    if (at.c + w < a.channels) v[w] = to_float(x[w * a.frames]);
  float z[4];
  frame_noise(a.noise, at, a.channels, z);
#pragma unroll
  for (int w = 0; w < 4; ++w)
    if (at.c + w < a.channels) y[w * a.frames] = from_float<T>(philox::fma(sigma, z[w], v[w]));
}

#define RENOISE_KERNEL(suffix, T, ...)                          \
  extern "C" __global__ void __launch_bounds__(kNoiseThreads)   \
      renoise_##suffix(const __grid_constant__ RenoiseArgs a) { \
    renoise_body<T>(a);                                         \
  }
FRAME_TYPES(RENOISE_KERNEL)

#define RENOISE_KERNELS(X) FRAME_TYPES(FRAME_NAME, X, renoise)
#define RENOISE_PLANS(X) X(renoise, RenoiseArgs)

}  // namespace prestissimo::cuda
