// SPDX-License-Identifier: Apache-2.0
// Rows of the top-k ops on the GPU: one block a row, any length. A thread owns every blockDim.x-th score and holds the
// state of its first kHeldScores in registers, that of the rest in `workspace`, which nobody else reads.
#pragma once
#include "../ops/topk_rows.h"
#include "reduce.cuh"
#include "vec.cuh"

namespace prestissimo::cuda {

constexpr int kHeldScores = 4;
constexpr uint32_t kTopkThreads = 1024;  // at most: 4096 scores in registers

// By the average length, since lengths are known on the device alone; any choice is right for any row.
inline uint32_t topk_threads(const TopkRows& t) {
  const int64_t average = t.rows ? ceil_div(t.size, t.rows) : 0;
  const int64_t threads = ceil_div(average, 2 * kWarpSize) * kWarpSize;
  return static_cast<uint32_t>(threads < kWarpSize ? kWarpSize : threads > kTopkThreads ? kTopkThreads : threads);
}
inline int topk_dtype(const TopkRows& t) { return t.dtype == DType::float32 ? 0 : t.dtype == DType::bfloat16 ? 1 : 2; }

PRESTISSIMO_DEVICE int64_t clamped(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

// Numbers that the host could not look at are clamped to what is there.
template <class T>
struct TopkRow {
  int64_t first, length;  // in the outputs
  const T* scores;
  const float* noise;  // or null

  PRESTISSIMO_DEVICE TopkRow(const TopkRows& t, int64_t r) {
    int64_t from = r * t.row_stride;
    first = r * t.length;
    length = t.length;
    if (t.offsets) {
      from = first = clamped(t.offsets[r], 0, t.size);
      length = clamped(t.offsets[r + 1], first, t.size) - first;
    }
    scores = static_cast<const T*>(t.scores) + from;
    noise = t.noise ? t.noise + first : nullptr;
  }
  PRESTISSIMO_DEVICE float score(int64_t j) const { return to_float(scores[j]) + (noise ? noise[j] : 0.0f); }
};

PRESTISSIMO_DEVICE int64_t count_of(const TopkRows& t, int64_t r) {
  return t.counts ? clamped(t.counts[r], 0, t.k) : t.k;
}
PRESTISSIMO_DEVICE int64_t selected_of(const TopkRows& t, int64_t r) {
  return t.slots ? t.slots[r] : t.selected >= 0 ? t.selected : count_of(t, r);
}

// Two numbers for every score of a row.
struct TopkState {
  float x[kHeldScores], y[kHeldScores];
  float *rest_x, *rest_y;
  int64_t length;

  PRESTISSIMO_DEVICE TopkState(float* plane_x, float* plane_y, int64_t length_)
      : rest_x(plane_x), rest_y(plane_y), length(length_) {}
  // f(x, y, j) for each score j of this thread.
  template <class F>
  PRESTISSIMO_DEVICE void each(F f) {
#pragma unroll
    for (int h = 0; h < kHeldScores; ++h) {
      const int64_t j = threadIdx.x + h * blockDim.x;
      if (j < length) f(x[h], y[h], j);
    }
#pragma unroll 1
    for (int64_t j = threadIdx.x + kHeldScores * blockDim.x; j < length; j += blockDim.x) f(rest_x[j], rest_y[j], j);
  }
};

// Bits that order like the numbers.
PRESTISSIMO_DEVICE uint32_t ordered_bits(float v) {
  const uint32_t u = __float_as_uint(v);
  return u >> 31 ? ~u : u | 0x80000000u;
}

constexpr int kSelectScratch = 2 * kMaxWarps;

// The largest threshold that at least `wanted` > 0 of the keys reach, bit by bit; `above`: how many exceed it.
// count(f) must sum f(j) over the scores that take part; wanted is at most their number.
template <class Count>
PRESTISSIMO_DEVICE uint32_t threshold(float wanted, float* above, float* scratch, Count count) {
  uint32_t low = 0;
  *above = 0.0f;
#pragma unroll 1
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t middle = low | 1u << bit;
    float reached[1] = {count(middle)};
    block_sum(reached, scratch + (bit & 1) * kMaxWarps);
    if (reached[0] >= wanted)
      low = middle;
    else
      *above = reached[0];
  }
  return low;
}

// x = 1 at the `selected` highest of x >= 0, ties to the higher score and then to the first, else 0. NaN stays.
template <class T>
PRESTISSIMO_DEVICE void select_highest(TopkState& s, const TopkRow<T>& row, int64_t selected, float* scratch) {
  if (selected <= 0 || selected >= row.length) {
    s.each([&](float& x, float&, int64_t) { x = x == x ? (selected > 0 ? 1.0f : 0.0f) : x; });
    return;
  }
  const auto soft = [](float x) { return ordered_bits(x + 0.0f); };
  const auto score = [&](int64_t j) { return ordered_bits(row.score(j) + 0.0f); };
  const auto place = [](int64_t j) { return ~static_cast<uint32_t>(j); };
  float above, wanted = static_cast<float>(selected);
  const auto count_if = [&](auto test) {
    float n = 0.0f;
    s.each([&](float& x, float&, int64_t j) { n += test(x, j) ? 1.0f : 0.0f; });
    return n;
  };
  const uint32_t t1 = threshold(wanted, &above, scratch,
                                [&](uint32_t t) { return count_if([&](float x, int64_t) { return soft(x) >= t; }); });
  wanted -= above;
  const uint32_t t2 = threshold(wanted, &above, scratch, [&](uint32_t t) {
    return count_if([&](float x, int64_t j) { return soft(x) == t1 && score(j) >= t; });
  });
  wanted -= above;
  const uint32_t t3 = threshold(wanted, &above, scratch, [&](uint32_t t) {
    return count_if([&](float x, int64_t j) { return soft(x) == t1 && score(j) == t2 && place(j) >= t; });
  });
  s.each([&](float& x, float&, int64_t j) {
    const uint32_t u = soft(x), v = score(j);
    const bool chosen = u > t1 || (u == t1 && (v > t2 || (v == t2 && place(j) >= t3)));
    x = x == x ? (chosen ? 1.0f : 0.0f) : x;
  });
}

}  // namespace prestissimo::cuda
