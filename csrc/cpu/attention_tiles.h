// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward of attention share: the product's type, which keys a query sees, powers of two, and
// how weights go into the packed operand of the next product.
#pragma once
#include "../ops/attention.h"
#include "gemm.h"
#include "math.h"
#include "scratch.h"
#include "transpose.h"
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
inline float infinity() { return __builtin_inff(); }

// bfloat16 products where the ISA has them; elsewhere floats are faster, and their operands are the same.
constexpr Dot product_of(DType dtype) {
  return kDotProducts && dtype == DType::bfloat16 ? Dot::bfloat16 : Dot::float32;
}
constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

template <class View>
char* address(const View& v, DType dtype, int64_t b, int64_t t, int64_t h) {
  return static_cast<char*>(const_cast<void*>(static_cast<const void*>(v.data))) +
         (b * v.batch_stride + t * v.time_stride + h * v.head_stride) * item_size(dtype);
}

inline Source rows_of(const AttentionArgs& a, const HeadsView& x, int64_t b, int64_t t, int64_t h) {
  return {address(x, a.dtype, b, t, h), a.dtype, x.time_stride, 1};
}
inline Source columns_of(const AttentionArgs& a, const HeadsView& x, int64_t b, int64_t t, int64_t h) {
  return {address(x, a.dtype, b, t, h), a.dtype, 1, x.time_stride};
}

// The keys of one sample, the first `count` of all. Where the mask has holes among them, `bound` is what a score can be
// at most: infinity or -infinity, which also replaces a NaN.
struct Keys {
  int64_t count;
  const float* bound;
};

// Writes the bounds of sample b into room for all keys, in whole panels.
inline Keys keys_of(const AttentionArgs& a, int64_t b, float* room) {
  int64_t count = a.keys;
  if (a.lengths && a.lengths[b] < count) count = a.lengths[b] < 0 ? 0 : a.lengths[b];
  if (!a.mask) return {count, nullptr};
  const bool* mask = a.mask + b * a.mask_stride;
  while (count > 0 && !mask[count - 1]) --count;
  bool holes = false;
  for (int64_t j = 0; j < count; ++j) {
    room[j] = mask[j] ? infinity() : -infinity();
    holes = holes || !mask[j];
  }
  for (int64_t j = count; j < round_up(count, kPanel); ++j) room[j] = -infinity();
  return {count, holes ? room : nullptr};
}

// Zeros for the values that a mask hides: a weight of zero times NaN would be NaN.
inline void clear_hidden(const PackedB& v, const Keys& keys, int64_t origin) {
  if (!keys.bound) return;
  const int step = step_size(v.dot), item = 4 / step;
  for (int64_t j = 0; j < v.K; ++j) {
    if (keys.bound[origin + j] > 0) continue;
    for (int64_t p = 0; p < v.panels(); ++p)
      for (int n = 0; n < kPanel; ++n) memset(v.panel(p) + j / step * kStepBytes + n * 4 + j % step * item, 0, item);
  }
}

// The same for values whose keys are the columns.
inline void clear_hidden_columns(const PackedB& v, const Keys& keys) {
  if (!keys.bound) return;
  for (int64_t j = 0; j < v.N; ++j)
    for (int64_t step = 0; keys.bound[j] < 0 && step < v.steps(); ++step)
      memset(v.panel(j / kPanel) + step * kStepBytes + j % kPanel * 4, 0, 4);
}

struct Range {
  int64_t begin, end;
};
// Which of `count` keys queries [first, last) see.
inline Range window(int64_t first, int64_t last, int64_t left, int64_t right, int64_t count) {
  const int64_t begin = left < first ? first - left : 0, end = right < count - last ? last + right : count;
  return {begin < end ? begin : end, end};
}

// Scores of keys [begin, begin + width) that are outside of what a query sees are no scores.
inline void hide(float* scores, int64_t begin, int64_t width, Range seen) {
  for (int64_t j = begin; j < seen.begin && j < begin + width; ++j) scores[j - begin] = -infinity();
  for (int64_t j = seen.end > begin ? seen.end : begin; j < begin + width; ++j) scores[j - begin] = -infinity();
}

// A panel's columns of weights of one row, to their place among the lines of an A panel of `rows` rows.
template <Dot kDot>
inline void put_weights(const Vec (&w)[kPanel / Vec::lanes], char* panel, int rows, int row) {
  if constexpr (kDot == Dot::bfloat16) {
#if defined(__AVX512BF16__)
    const __m512bh pairs = _mm512_cvtne2ps_pbh(w[1].v, w[0].v);
    memcpy(panel + row * kLineBytes, &pairs, kLineBytes);
#endif
  } else {
    constexpr int kOfLine = 16 / Vec::lanes;
    for (int i = 0; i < kPanel / Vec::lanes; ++i)
      store(reinterpret_cast<float*>(panel + (i / kOfLine * rows + row) * kLineBytes) + i % kOfLine * Vec::lanes, w[i]);
  }
}

// The same columns of two rows, the second row behind the first in k, to their place in a B panel.
template <Dot kDot>
inline void put_steps(const Vec (&w)[2][kPanel / Vec::lanes], char* steps) {
  if constexpr (kDot == Dot::bfloat16) {
#if defined(__AVX512BF16__)
    for (int i = 0; i < 2; ++i)
      _mm512_storeu_si512(steps + i * kLineBytes,
                          interleave_halves((__m512i)_mm512_cvtne2ps_pbh(w[1][i].v, w[0][i].v)));
#endif
  } else {
    for (int r = 0; r < 2; ++r)
      for (int i = 0; i < kPanel / Vec::lanes; ++i)
        store(reinterpret_cast<float*>(steps + r * kStepBytes) + i * Vec::lanes, w[r][i]);
  }
}

constexpr int64_t lines_of_panel(Dot d) { return d == Dot::bfloat16 ? 1 : 2; }

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
