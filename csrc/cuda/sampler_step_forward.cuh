// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/sampler_step.h. Three kernels of the forward: flat, where no element needs another; one with noise,
// whose threads draw four channels of a frame at once; and one for rescaled guidance, whose blocks know the standard
// deviations of their frames. Which arrays there are is the same for every thread, so the branches cost one predicate.
#pragma once
#include "frame_noise.cuh"
#include "sampler_step_plan.h"

namespace prestissimo::cuda {

// Where a sample begins in each array; null where an array is absent.
template <class T>
struct StepArrays {
  const T *x, *c, *u, *p;
  T *y, *d;

  PRESTISSIMO_DEVICE StepArrays(const SamplerStepArgs& a, int64_t b)
      : x(begin(a.x, b)),
        c(begin(a.conditional, b)),
        u(begin(a.unconditional, b)),
        p(begin(a.previous, b)),
        y(sample<T>(a.y, b)),
        d(a.denoised.data ? sample<T>(a.denoised, b) : nullptr) {}

 private:
  static PRESTISSIMO_DEVICE const T* begin(const Samples& v, int64_t b) { return v.data ? sample<T>(v, b) : nullptr; }
};

// What a thread loads of V elements.
template <int V>
struct StepInputs {
  float x[V] = {}, c[V], u[V] = {}, p[V] = {};

  template <class T>
  PRESTISSIMO_DEVICE void read(const StepArrays<T>& r, int64_t i) {
    load(r.c + i, c);
    if (r.x) load(r.x + i, x);
    if (r.u) load(r.u + i, u);
    if (r.p) load(r.p + i, p);
  }
};

// D before its factor, and D_c.
struct DenoisedPair {
  float conditional, guided;
};
PRESTISSIMO_DEVICE DenoisedPair denoised_pair(const StepWeights& w, float c, float u, bool has_u, float x) {
  const float g = has_u ? fmaf(w.guidance, c - u, c) : c;
  DenoisedPair d{w.out * c, w.out * g};
  if (w.skip != 0.0f) d = {fmaf(w.skip, x, d.conditional), fmaf(w.skip, x, d.guided)};
  return d;
}

template <class T, int V>
PRESTISSIMO_DEVICE void step_elements(const StepWeights& w, const StepArrays<T>& r, const StepInputs<V>& in, int64_t i,
                                      float factor, bool scaled, const float* z) {
  float y[V], d[V];
#pragma unroll
  for (int j = 0; j < V; ++j) {
    d[j] = denoised_pair(w, in.c[j], in.u[j], r.u, in.x[j]).guided;
    if (scaled) d[j] *= factor;
    y[j] = w.denoised * d[j];
    if (w.x != 0.0f) y[j] = fmaf(w.x, in.x[j], y[j]);
    if (r.p) y[j] = fmaf(w.previous, in.p[j], y[j]);
    if (z) y[j] = fmaf(w.noise, z[j], y[j]);
  }
  if (r.d) store_global(r.d + i, d);
  store_global(r.y + i, y);
}

template <class T, int V>
PRESTISSIMO_DEVICE void sampler_step_flat(const SamplerStepArgs& a) {
  const FlatShare<V> share(a.channels * a.frames);
  const StepArrays<T> r(a, share.b);
  StepInputs<V> in[kFlatVectors];
  share.for_each([&](int k, int64_t i) { in[k].read(r, i); });
  share.for_each([&](int k, int64_t i) { step_elements<T, V>(a.weights, r, in[k], i, 1.0f, false, nullptr); });
}

// Channels c .. c + 3 of one frame, those that there are.
template <class T>
PRESTISSIMO_DEVICE void step_four(const SamplerStepArgs& a, const StepArrays<T>& r, int64_t c, int64_t t, float factor,
                                  bool scaled, const float* z) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if (c + w >= a.channels) return;
    const int64_t i = (c + w) * a.frames + t;
    StepInputs<1> in;
    in.read(r, i);
    step_elements<T, 1>(a.weights, r, in, i, factor, scaled, z ? z + w : nullptr);
  }
}

template <class T>
PRESTISSIMO_DEVICE void sampler_step_noise(const SamplerStepArgs& a) {
  const NoiseShare at(a.channels, a.frames);
  if (at.t >= a.frames) return;
  float z[4];
  frame_noise(a.noise, at, a.channels, z);
  step_four<T>(a, StepArrays<T>(a, at.b), at.c, at.t, 1.0f, false, z);
}

// ---- rescaled guidance

// Sums N values over the groups of each frame, in the order of the groups. `scratch` has N * kColumnThreads floats.
template <int N>
PRESTISSIMO_DEVICE void column_sum(float (&v)[N], float* scratch) {
  const int lane = threadIdx.x % kWarpSize, group = threadIdx.x / kWarpSize;
  __syncthreads();  // what an earlier call left has been read
#pragma unroll
  for (int n = 0; n < N; ++n) scratch[(n * kColumnGroups + group) * kWarpSize + lane] = v[n];
  __syncthreads();
#pragma unroll
  for (int n = 0; n < N; ++n) {
    v[n] = 0.0f;
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) v[n] += scratch[(n * kColumnGroups + g) * kWarpSize + lane];
  }
}

// The frame of this thread in a block of 32; where it lies behind the last, `inside` is false.
struct ColumnShare {
  int64_t b, t;
  int group;
  bool inside;

  PRESTISSIMO_DEVICE explicit ColumnShare(int64_t frames) {
    const uint32_t tiles = static_cast<uint32_t>((frames + kWarpSize - 1) / kWarpSize);
    b = blockIdx.x / tiles;
    t = static_cast<int64_t>(blockIdx.x % tiles) * kWarpSize + threadIdx.x % kWarpSize;
    group = threadIdx.x / kWarpSize;
    inside = t < frames;
  }
  // f(channel) for the channels of this thread: fours, every kColumnGroups-th of them.
  template <class F>
  PRESTISSIMO_DEVICE void for_channels(int64_t channels, F f) const {
    if (!inside) return;
    for (int64_t c = 4 * group; c < channels; c += 4 * kColumnGroups)
#pragma unroll
      for (int w = 0; w < 4; ++w)
        if (c + w < channels) f(c + w);
  }
};

// Kahan's sum; each operation rounded by itself.
PRESTISSIMO_DEVICE void add_square(float& sum, float& lost, float d) {
  const float y = __fadd_rn(__fmul_rn(d, d), -lost), t = __fadd_rn(sum, y);
  lost = __fadd_rn(__fadd_rn(t, -sum), -y);
  sum = t;
}

struct ColumnStatistics {
  float mean_c, mean, deviation_c, deviation, product;
};

// pair(c): D and D_c of channel c; product(c): what is summed times D. Means first, then squares about them.
template <class Pair, class Product>
PRESTISSIMO_DEVICE ColumnStatistics column_statistics(const ColumnShare& at, int64_t channels, Pair pair,
                                                      Product product, float* scratch) {
  float mean[2] = {0.0f, 0.0f}, moments[3] = {0.0f, 0.0f, 0.0f}, lost[2] = {0.0f, 0.0f};
  at.for_channels(channels, [&](int64_t c) {
    const DenoisedPair d = pair(c);
    mean[0] += d.conditional;
    mean[1] += d.guided;
  });
  column_sum(mean, scratch);
  const float count = static_cast<float>(channels);
  mean[0] /= count;
  mean[1] /= count;
  at.for_channels(channels, [&](int64_t c) {
    const DenoisedPair d = pair(c);
    add_square(moments[0], lost[0], d.conditional - mean[0]);
    add_square(moments[1], lost[1], d.guided - mean[1]);
    moments[2] += product(c) * d.guided;
  });
  column_sum(moments, scratch);
  const float rest = count - 1.0f;
  return {mean[0], mean[1], sqrtf(moments[0] / rest), sqrtf(moments[1] / rest), moments[2]};
}

PRESTISSIMO_DEVICE float least(float deviation) { return deviation < kLeastDeviation ? kLeastDeviation : deviation; }

template <class T>
PRESTISSIMO_DEVICE void sampler_step_columns(const SamplerStepArgs& a) {
  SHARED_ARRAY(float, scratch, (3 * kColumnThreads));
  const ColumnShare at(a.frames);
  const StepArrays<T> r(a, at.b);
  const StepWeights& w = a.weights;
  const auto pair = [&](int64_t c) {
    const int64_t i = c * a.frames + at.t;
    return denoised_pair(w, to_float(r.c[i]), to_float(r.u[i]), true, w.skip != 0.0f ? to_float(r.x[i]) : 0.0f);
  };
  const ColumnStatistics s = column_statistics(at, a.channels, pair, [](int64_t) { return 0.0f; }, scratch);
  const float factor = w.rescale * (s.deviation_c / least(s.deviation)) + (1.0f - w.rescale);
  if (!at.inside) return;
  for (int64_t c = 4 * at.group; c < a.channels; c += 4 * kColumnGroups) {
    if (a.noise.seeds) {
      float z[4];
      frame_noise(a.noise, {at.b, c, at.t}, a.channels, z);
      step_four<T>(a, r, c, at.t, factor, true, z);
    } else {
      step_four<T>(a, r, c, at.t, factor, true, nullptr);
    }
  }
}

#define SAMPLER_STEP_FLAT(suffix, T, V, ...)                             \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)             \
      sampler_step_##suffix(const __grid_constant__ SamplerStepArgs a) { \
    sampler_step_flat<T, V>(a);                                          \
  }
#define SAMPLER_STEP_FRAMES(suffix, T, ...)                                      \
  extern "C" __global__ void __launch_bounds__(kNoiseThreads)                    \
      sampler_step_noise_##suffix(const __grid_constant__ SamplerStepArgs a) {   \
    sampler_step_noise<T>(a);                                                    \
  }                                                                              \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                   \
      sampler_step_columns_##suffix(const __grid_constant__ SamplerStepArgs a) { \
    sampler_step_columns<T>(a);                                                  \
  }
FLAT_TYPES(SAMPLER_STEP_FLAT)
FRAME_TYPES(SAMPLER_STEP_FRAMES)

}  // namespace prestissimo::cuda
