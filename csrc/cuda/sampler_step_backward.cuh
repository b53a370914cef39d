// SPDX-License-Identifier: Apache-2.0
// The gradients of sampler_step_forward.cuh, in its order of sums.
#pragma once
#include "sampler_step_forward.cuh"

namespace prestissimo::cuda {

// Where a sample begins in each gradient; null where one is absent.
template <class T>
struct StepGradients {
  const T *dy, *dd;
  T *dx, *dc, *du, *dp;

  PRESTISSIMO_DEVICE StepGradients(const SamplerStepBackwardArgs& a, int64_t b)
      : dy(sample<T>(a.dy, b)),
        dd(a.ddenoised.data ? sample<T>(a.ddenoised, b) : nullptr),
        dx(begin(a.dx, b)),
        dc(begin(a.dconditional, b)),
        du(begin(a.dunconditional, b)),
        dp(begin(a.dprevious, b)) {}

 private:
  static PRESTISSIMO_DEVICE T* begin(const SamplesOut& v, int64_t b) { return v.data ? sample<T>(v, b) : nullptr; }
};

// From dy, dD_raw and dD_c of V elements.
template <class T, int V>
PRESTISSIMO_DEVICE void write_gradients(const StepWeights& w, const StepGradients<T>& r, int64_t i,
                                        const float (&dy)[V], const float (&raw)[V], const float (&conditional)[V]) {
  float v[V];
  if (r.dx) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      v[j] = w.x != 0.0f ? w.x * dy[j] : 0.0f;
      if (w.skip != 0.0f) v[j] = fmaf(w.skip, raw[j] + conditional[j], v[j]);
    }
    store_global(r.dx + i, v);
  }
  if (r.dc) {
    const float out = w.out * (1.0f + w.guidance);
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = fmaf(w.out, conditional[j], out * raw[j]);
    store_global(r.dc + i, v);
  }
  if (r.du) {
    const float out = -w.out * w.guidance;
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = out * raw[j];
    store_global(r.du + i, v);
  }
  if (r.dp) {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = w.previous * dy[j];
    store_global(r.dp + i, v);
  }
}

template <class T, int V>
PRESTISSIMO_DEVICE void sampler_step_backward_flat(const SamplerStepBackwardArgs& a) {
  const FlatShare<V> share(a.channels * a.frames);
  const StepGradients<T> r(a, share.b);
  float dy[kFlatVectors][V], dd[kFlatVectors][V] = {};
  share.for_each([&](int k, int64_t i) {
    load(r.dy + i, dy[k]);
    if (r.dd) load(r.dd + i, dd[k]);
  });
  share.for_each([&](int k, int64_t i) {
    float e[V];
    const float none[V] = {};
#pragma unroll
    for (int j = 0; j < V; ++j) {
      e[j] = a.weights.denoised * dy[k][j];
      e[j] += dd[k][j];
    }
    write_gradients<T, V>(a.weights, r, i, dy[k], e, none);
  });
}

// With r = std(D_c) / std(D), k = phi r + 1 - phi and S = sum over channels of e D:
// dD_raw = k e - S phi r (D - mean) / ((C - 1) std(D)^2),  dD_c = S phi (D_c - mean_c) / ((C - 1) std(D) std(D_c));
// a deviation that is zero, or held at its least, passes no gradient on.
template <class T>
PRESTISSIMO_DEVICE void sampler_step_backward_columns(const SamplerStepBackwardArgs& a) {
  SHARED_ARRAY(float, scratch, (3 * kColumnThreads));
  const ColumnShare at(a.frames);
  const StepGradients<T> r(a, at.b);
  const StepWeights& w = a.weights;
  const T *cond = sample<T>(a.conditional, at.b), *uncond = sample<T>(a.unconditional, at.b);
  const T* x = a.x.data ? sample<T>(a.x, at.b) : nullptr;
  const auto pair = [&](int64_t c) {
    const int64_t i = c * a.frames + at.t;
    return denoised_pair(w, to_float(cond[i]), to_float(uncond[i]), true, x ? to_float(x[i]) : 0.0f);
  };
  const auto gradient = [&](int64_t c) {
    const int64_t i = c * a.frames + at.t;
    const float e = w.denoised * to_float(r.dy[i]);
    return r.dd ? e + to_float(r.dd[i]) : e;
  };
  const ColumnStatistics s = column_statistics(at, a.channels, pair, gradient, scratch);
  const float deviation = least(s.deviation), ratio = s.deviation_c / deviation;
  const float factor = w.rescale * ratio + (1.0f - w.rescale);
  const float common = s.product * w.rescale / ((static_cast<float>(a.channels) - 1.0f) * deviation);
  const float pull = s.deviation < kLeastDeviation ? 0.0f : common * ratio / deviation;
  const float pull_c = s.deviation_c == 0.0f ? 0.0f : common / s.deviation_c;
  at.for_channels(a.channels, [&](int64_t c) {
    const int64_t i = c * a.frames + at.t;
    const DenoisedPair d = pair(c);
    const float dy[1] = {to_float(r.dy[i])};
    const float raw[1] = {factor * gradient(c) - pull * (d.guided - s.mean)};
    const float conditional[1] = {pull_c * (d.conditional - s.mean_c)};
    write_gradients<T, 1>(w, r, i, dy, raw, conditional);
  });
}

#define SAMPLER_STEP_BACKWARD_FLAT(suffix, T, V, ...)                                     \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                              \
      sampler_step_backward_##suffix(const __grid_constant__ SamplerStepBackwardArgs a) { \
    sampler_step_backward_flat<T, V>(a);                                                  \
  }
#define SAMPLER_STEP_BACKWARD_FRAMES(suffix, T, ...)                                              \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                                    \
      sampler_step_backward_columns_##suffix(const __grid_constant__ SamplerStepBackwardArgs a) { \
    sampler_step_backward_columns<T>(a);                                                          \
  }
FLAT_TYPES(SAMPLER_STEP_BACKWARD_FLAT)
FRAME_TYPES(SAMPLER_STEP_BACKWARD_FRAMES)

}  // namespace prestissimo::cuda
