// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/apg_combine.h.
#pragma once
#include "../ops/apg_combine.h"
#include "sample_sums.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const ApgCombineArgs& a) {
  const char* op = "apg_combine";
  const bool vectors = vectorised_samples(a.dtype, a.size, a.conditional, a.unconditional, a.average, a.y, a.next);
  LaunchPlan p;
  add_sum_blocks(p, op, flat_kernel(a.dtype, vectors, 0), a.batch, a.size);
  p.add(op, flat_kernel(a.dtype, vectors, 1), a.batch * flat_blocks(a.dtype, vectors, a.size), kFlatThreads);
  return p;
}
inline LaunchPlan plan(const ApgCombineBackwardArgs& a) {
  const char* op = "apg_combine_backward";
  const bool vectors = vectorised_samples(a.dtype, a.size, a.dy, a.dnext, a.conditional, a.unconditional, a.average,
                                          a.dconditional, a.dunconditional, a.daverage);
  LaunchPlan p;
  add_sum_blocks(p, op, flat_kernel(a.dtype, vectors, 2), a.batch, a.size);
  p.add(op, flat_kernel(a.dtype, vectors, 3), a.batch * flat_blocks(a.dtype, vectors, a.size), kFlatThreads);
  return p;
}
inline const ApgCombineArgs& parameters(const ApgCombineArgs& a) { return a; }
inline const ApgCombineBackwardArgs& parameters(const ApgCombineBackwardArgs& a) { return a; }

// c and d = c - u + momentum average of V elements.
template <class T, int V, class Args>
PRESTISSIMO_DEVICE void load_difference(const Args& a, int64_t b, int64_t i, float (&c)[V], float (&d)[V]) {
  load(sample<T>(a.conditional, b) + i, c);
  load(sample<T>(a.unconditional, b) + i, d);
#pragma unroll
  for (int j = 0; j < V; ++j) d[j] = c[j] - d[j];
  if (a.average.data) {
    float average[V];
    load(sample<T>(a.average, b) + i, average);
#pragma unroll
    for (int j = 0; j < V; ++j) d[j] = fmaf(a.weights.momentum, average[j], d[j]);
  }
}

// (w - 1) s, and whether s < 1.
struct ApgStep {
  float weight;
  bool shortened;

  PRESTISSIMO_DEVICE ApgStep(const ApgWeights& w, float square) {
    const float norm = sqrtf(square);
    shortened = w.threshold > 0.0f && norm > w.threshold;
    weight = w.guidance * (shortened ? w.threshold / norm : 1.0f);
  }
};

template <class T, int V>
PRESTISSIMO_DEVICE void apg_combine_sums(const ApgCombineArgs& a) {
  SHARED_ARRAY(float, scratch, (3 * kMaxWarps));
  block_sums<3, V>(
      a.partial, a.size,
      [&](int64_t b, int64_t i, float(&sums)[3]) {
        float c[V], d[V];
        load_difference<T, V>(a, b, i, c, d);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          sums[0] = fmaf(d[j], d[j], sums[0]);
          sums[1] = fmaf(d[j], c[j], sums[1]);
          sums[2] = fmaf(c[j], c[j], sums[2]);
        }
      },
      scratch);
}

template <class T, int V>
PRESTISSIMO_DEVICE void apg_combine_body(const ApgCombineArgs& a) {
  SHARED_ARRAY(float, scratch, (3 * kMaxWarps));
  const FlatShare<V> share(a.size);
  float sums[3];
  add_blocks(a.partial, share.b, a.size, sums, scratch);
  const ApgStep step(a.weights, sums[0]);
  const float by_c = step.weight * a.weights.eta * (sums[1] / fmaxf(sums[2], kLeastSquare));
  float c[kFlatVectors][V], d[kFlatVectors][V];
  share.for_each([&](int k, int64_t i) { load_difference<T, V>(a, share.b, i, c[k], d[k]); });
  share.for_each([&](int k, int64_t i) {
    float y[V];
#pragma unroll
    for (int j = 0; j < V; ++j) y[j] = fmaf(by_c, c[k][j], fmaf(step.weight, d[k][j], c[k][j]));
    store_global(sample<T>(a.y, share.b) + i, y);
    if (a.next.data) store_global(sample<T>(a.next, share.b) + i, d[k]);
  });
}

template <class T, int V>
PRESTISSIMO_DEVICE void apg_combine_backward_sums(const ApgCombineBackwardArgs& a) {
  SHARED_ARRAY(float, scratch, (5 * kMaxWarps));
  block_sums<5, V>(
      a.partial, a.size,
      [&](int64_t b, int64_t i, float(&sums)[5]) {
        float c[V], d[V], g[V];
        load_difference<T, V>(a, b, i, c, d);
        load(sample<T>(a.dy, b) + i, g);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          sums[0] = fmaf(d[j], d[j], sums[0]);
          sums[1] = fmaf(d[j], c[j], sums[1]);
          sums[2] = fmaf(c[j], c[j], sums[2]);
          sums[3] = fmaf(g[j], c[j], sums[3]);
          sums[4] = fmaf(g[j], d[j], sums[4]);
        }
      },
      scratch);
}

template <class T, int V>
PRESTISSIMO_DEVICE void apg_combine_backward_body(const ApgCombineBackwardArgs& a) {
  SHARED_ARRAY(float, scratch, (5 * kMaxWarps));
  const FlatShare<V> share(a.size);
  float sums[5];
  add_blocks(a.partial, share.b, a.size, sums, scratch);
  const ApgStep step(a.weights, sums[0]);
  const float m = step.weight, e = a.weights.eta, q = fmaxf(sums[2], kLeastSquare), of_c = sums[1] / q;
  const float pull = m * e * sums[3] / q;
  const float d_d = step.shortened ? -m * (sums[4] + e * of_c * sums[3]) / sums[0] : 0.0f;
  const float c_g = 1.0f + m * e * of_c, c_c = sums[2] < kLeastSquare ? 0.0f : -2.0f * of_c * pull;
  share.for_each([&](int, int64_t i) {
    float c[V], d[V], g[V], dd[V];
    load_difference<T, V>(a, share.b, i, c, d);
    load(sample<T>(a.dy, share.b) + i, g);
#pragma unroll
    for (int j = 0; j < V; ++j) dd[j] = fmaf(d_d, d[j], fmaf(pull, c[j], m * g[j]));
    if (a.dnext.data) {
      float next[V];
      load(sample<T>(a.dnext, share.b) + i, next);
#pragma unroll
      for (int j = 0; j < V; ++j) dd[j] += next[j];
    }
    if (a.dconditional.data) {
      float dc[V];
#pragma unroll
      for (int j = 0; j < V; ++j) dc[j] = fmaf(c_c, c[j], fmaf(pull, d[j], fmaf(c_g, g[j], dd[j])));
      store_global(sample<T>(a.dconditional, share.b) + i, dc);
    }
    const auto scaled = [&](const SamplesOut& out, float by) {
      if (!out.data) return;
      float v[V];
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = by * dd[j];
      store_global(sample<T>(out, share.b) + i, v);
    };
    scaled(a.dunconditional, -1.0f);
    scaled(a.daverage, a.weights.momentum);
  });
}

#define APG_COMBINE_KERNEL(suffix, T, V, ...)                                                \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                                 \
      apg_combine_sums_##suffix(const __grid_constant__ ApgCombineArgs a) {                  \
    apg_combine_sums<T, V>(a);                                                               \
  }                                                                                          \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                                 \
      apg_combine_##suffix(const __grid_constant__ ApgCombineArgs a) {                       \
    apg_combine_body<T, V>(a);                                                               \
  }                                                                                          \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                                 \
      apg_combine_backward_sums_##suffix(const __grid_constant__ ApgCombineBackwardArgs a) { \
    apg_combine_backward_sums<T, V>(a);                                                      \
  }                                                                                          \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                                 \
      apg_combine_backward_##suffix(const __grid_constant__ ApgCombineBackwardArgs a) {      \
    apg_combine_backward_body<T, V>(a);                                                      \
  }
FLAT_TYPES(APG_COMBINE_KERNEL)

#define APG_COMBINE_KERNELS(X)                        \
  FLAT_TYPES(FLAT_NAME, X, apg_combine_sums)          \
  FLAT_TYPES(FLAT_NAME, X, apg_combine)               \
  FLAT_TYPES(FLAT_NAME, X, apg_combine_backward_sums) \
  FLAT_TYPES(FLAT_NAME, X, apg_combine_backward)
#define APG_COMBINE_PLANS(X) X(apg_combine, ApgCombineArgs) X(apg_combine_backward, ApgCombineBackwardArgs)

}  // namespace prestissimo::cuda
