// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward of info_nce share: which pairs take part, and the logits of a block of products.
#pragma once
#include "../ops/info_nce.h"
#include "math.h"
#include "similarity.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

constexpr int kLanes = Vec::lanes;
constexpr float kLeftOut = -__builtin_inff();
// Where no logit of a block exceeds this, e^x itself is summed: one exponential serves the row and the column, and no
// maximum is kept. e^60 times 10^11 terms stays finite, and e^-60 is far from subnormal.
constexpr float kSafe = 60.0f;

// What the logits of both directions are made of: x = products * row[i] * column[j] + bias.
struct Factors {
  Scratch memory;
  float *row, *column;  // scale / |a_i| and 1 / |b_j|, or scale and 1; columns padded with zeros to whole panels
  float scale, bias;
  bool zero_scale;

  explicit Factors(const InfoNceArgs& a)
      : memory((a.M + (a.N + kPanel - 1) / kPanel * kPanel + 16) * 4),
        row(memory.need<float>()),
        column(row + (a.M + 15) / 16 * 16),
        scale(*a.scale == 0.0f ? kTinyScale : *a.scale),
        bias(a.bias ? *a.bias : 0.0f),
        zero_scale(*a.scale == 0.0f) {
    fill(a, a.a, a.a_stride, a.M, a.M, scale, row);
    fill(a, a.b, a.b_stride, a.N, (a.N + kPanel - 1) / kPanel * kPanel, 1.0f, column);
  }

 private:
  template <class T>
  static float length(const T* x, int64_t n) {
    const float squares = sum_lanes(n, [&](int64_t i, int k) {
      const Vec v = load(x + i, k);
      return v * v;
    });
    const float norm = __builtin_sqrtf(squares);
    return norm < kNormEps ? kNormEps : norm;
  }
  static float length(const void* x, DType t, int64_t first, int64_t n) {
    switch (t) {
      case DType::bfloat16: return length(static_cast<const bfloat16*>(x) + first, n);
      case DType::float16: return length(static_cast<const float16*>(x) + first, n);
      default: return length(static_cast<const float*>(x) + first, n);
    }
  }
  static void fill(const InfoNceArgs& a, const void* x, int64_t stride, int64_t n, int64_t padded, float by,
                   float* out) {
    parallel_for(n, 1 + 16384 / (a.E + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = a.normalize ? by / length(x, a.dtype, i * stride, a.E) : by;
    });
    for (int64_t i = n; i < padded; ++i) out[i] = 0.0f;
  }
};

inline Matrix rows_of(const void* data, DType t, int64_t stride, int64_t n) { return {{data, t, stride, 1}, n}; }

inline bool takes_part(const InfoNceArgs& a, int64_t i, int64_t j) {
  if (a.mask && !a.mask[i * a.mask_stride + j]) return false;
  if (!a.a_group) return true;
  const int64_t g = a.a_group[i], h = a.b_group[j];
  return g >= 0 && h >= 0 && (g != h || j == i + a.offset);
}

inline int64_t anchors(const InfoNceArgs& a) {
  int64_t n = 0;
  for (int64_t i = 0; i < a.M; ++i) n += takes_part(a, i, i + a.offset);
  return n;
}

// Calls f(i, value) for the positives of a block, value being a reference into it.
template <class F>
void for_positives(const InfoNceArgs& a, const Block& b, const F& f) {
  for (int c = 0; c < b.columns; ++c) {
    const int64_t i = b.column + c - a.offset;
    if (i >= b.row && i < b.row + b.rows) f(i, b[static_cast<int>(i - b.row)][c]);
  }
}

inline void leave_out_masked(const InfoNceArgs& a, const Block& b) {
  for (int r = 0; r < b.rows; ++r) {
    const uint8_t* mask = a.mask + (b.row + r) * a.mask_stride + b.column;
    float* x = b[r];
    for (int c = 0; c < b.columns; ++c) x[c] = mask[c] ? x[c] : kLeftOut;
  }
}
inline void leave_out_groups(const InfoNceArgs& a, const Block& b) {
  const int64_t* of_column = a.b_group + b.column;
  for (int r = 0; r < b.rows; ++r) {
    const int64_t i = b.row + r, own = i + a.offset - b.column, of_row = a.a_group[i];
    float* x = b[r];
    const float positive = own >= 0 && own < b.columns ? x[own] : kLeftOut;
    for (int c = 0; c < b.columns; ++c) x[c] = of_column[c] != of_row && of_column[c] >= 0 ? x[c] : kLeftOut;
    if (own >= 0 && own < b.columns && of_row == of_column[own]) x[own] = positive;
    if (of_row < 0)
      for (int c = 0; c < b.columns; ++c) x[c] = kLeftOut;
  }
}

// Products to logits, in place, -inf where a pair is left out and in the padding. Whether all logits are safe.
inline bool logits(const InfoNceArgs& a, const Factors& f, const Block& b) {
  Vec worst = zero();
  const Vec bias = broadcast(f.bias);
  for (int r = 0; r < b.rows; ++r) {
    const Vec row = broadcast(f.row[b.row + r]);
    for (int c = 0; c < kPanel; c += kLanes) {
      const Vec x = fma(load(b[r] + c), row * load(f.column + b.column + c), bias);
      store(b[r] + c, x);
      worst = max(magnitude(x), worst);  // whatever NaN stands in the padding, infinities stay
    }
  }
  if (a.mask) leave_out_masked(a, b);
  if (a.a_group) leave_out_groups(a, b);
  for (int r = 0; r < b.rows; ++r)
    for (int c = b.columns; c < kPanel; ++c) b[r][c] = kLeftOut;
  return max_lane(worst) <= kSafe;
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
