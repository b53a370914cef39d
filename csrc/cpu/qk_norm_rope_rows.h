// SPDX-License-Identifier: Apache-2.0
// What qk_norm_rope and its backward do alike with a row of one head.
#pragma once
#include "../ops/qk_norm_rope.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

template <class T>
const T* row(const HeadView& v, int64_t b, int64_t t, int64_t h) {
  return static_cast<const T*>(v.data) + b * v.batch_stride + t * v.time_stride + h * v.head_stride;
}
template <class T>
T* row(const HeadOutput& v, int64_t b, int64_t t, int64_t h) {
  return static_cast<T*>(v.data) + b * v.batch_stride + t * v.time_stride + h * v.head_stride;
}

// The vectors of q or of k as floats: ones and zeros where they are absent.
struct Affine {
  float *weight, *bias;
  float alpha;
};

inline void widen_vector(const void* p, DType dtype, float absent, float* out, int64_t n) {
  if (!p) {
    for (int64_t i = 0; i < n; ++i) out[i] = absent;
    return;
  }
  with_type(dtype, [&](auto t) {
    const auto* v = static_cast<const decltype(t)*>(p);
    for (int64_t i = 0; i < n; ++i) out[i] = widen(v[i]);
  });
}

inline Affine affine_of(const QkNormRopeArgs& a, const Heads& h, float* weight, float* bias) {
  float alpha;
  widen_vector(h.weight, a.vectors_dtype, 1.0f, weight, a.dim);
  widen_vector(h.bias, a.vectors_dtype, 0.0f, bias, a.dim);
  widen_vector(h.alpha, a.vectors_dtype, 1.0f, &alpha, 1);
  return {weight, bias, alpha};
}

// n = (x - mean) * rstd for layer and rms; what none and dyt leave at 0 and 1.
struct HeadStatistics {
  float mean, rstd;
};

template <class T>
HeadStatistics statistics(const T* x, const QkNormRopeArgs& a) {
  if (a.norm == HeadNorm::none || a.norm == HeadNorm::dyt) return {0.0f, 1.0f};
  const int64_t D = a.dim;
  const float n = static_cast<float>(D);
  float mean = 0.0f;
  if (a.norm == HeadNorm::layer) mean = sum_lanes(D, [&](int64_t i, int k) { return load(x + i, k); }) / n;
  const Vec m = broadcast(mean);
  const float squares = sum_lanes(D, [&](int64_t i, int k) {
    const Vec d = keep(load(x + i, k) - m, k);
    return d * d;
  });
  return {mean, 1.0f / __builtin_sqrtf(squares / n + a.eps)};
}

// Interleaved pairs of `u` into half-split order, and back.
inline void gather_pairs(const float* u, float* out, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    out[i] = u[2 * i];
    out[half + i] = u[2 * i + 1];
  }
}
inline void scatter_pairs(const float* u, float* out, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    out[2 * i] = u[i];
    out[2 * i + 1] = u[half + i];
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
