// SPDX-License-Identifier: Apache-2.0
#include "../ops/depthwise_conv1d.h"

#include "parallel.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Taps [first, end) of step t are those that meet [0, time_in).
struct TapRange {
  int64_t first, end;
};
inline TapRange taps_of(int64_t t, int64_t taps, int64_t offset, int64_t step, int64_t time_in) {
  const auto meets = [&](int64_t k) { return t + offset + k * step >= 0 && t + offset + k * step < time_in; };
  int64_t first = 0, end = taps;
  while (first < end && !meets(first)) ++first;
  while (end > first && !meets(end - 1)) --end;
  return {first, end};
}

// y = bias + sum_j weight[j] x[j], `pitch` elements from one x to the next; kTaps of them, or `count` where kTaps is 0.
template <int kTaps, class T>
void convolve_row(const T* x, int64_t pitch, const float* const* weight, const float* bias, T* y, int64_t C,
                  int64_t count) {
  const auto lanes = [&](int64_t i, int k) {
    Vec v = load(bias + i, k);
    if constexpr (kTaps > 0) {
#pragma GCC unroll 7
      for (int j = 0; j < kTaps; ++j) v = fma(load(x + j * pitch + i, k), load(weight[j] + i, k), v);
    } else {
      for (int64_t j = 0; j < count; ++j) v = fma(load(x + j * pitch + i, k), load(weight[j] + i, k), v);
    }
    store(y + i, v, k);
  };
  for_lanes(C, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
}

template <class T>
void convolve_row(const T* x, int64_t pitch, const float* const* weight, const float* bias, T* y, int64_t C,
                  int64_t count) {
  switch (count) {
    case 3: return convolve_row<3>(x, pitch, weight, bias, y, C, count);
    case 5: return convolve_row<5>(x, pitch, weight, bias, y, C, count);
    case 7: return convolve_row<7>(x, pitch, weight, bias, y, C, count);
    default: return convolve_row<0>(x, pitch, weight, bias, y, C, count);
  }
}

template <class T>
void convolve(const DepthwiseConv1dArgs& a) {
  const int64_t C = a.channels;
  bool failed = false;
  parallel_for(a.batch * a.time, kGrainElements / C + 1, [&](int64_t begin, int64_t end) {
    Scratch<kMostTaps + 1> scratch(C);
    if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    const float* weight[kMostTaps];
    for (int64_t k = 0; k < a.taps; ++k) {
      float* w = scratch.row(static_cast<int>(k));
      for (int64_t c = 0; c < C; ++c) w[c] = widen(static_cast<const T*>(a.weight)[c * a.taps + k]);
      weight[k] = w;
    }
    float* bias = scratch.row(kMostTaps);
    for (int64_t c = 0; c < C; ++c) bias[c] = a.bias ? widen(static_cast<const T*>(a.bias)[c]) : 0.0f;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / a.time, t = r % a.time;
      const TapRange taps = taps_of(t, a.taps, a.offset, a.step, a.time_in);
      // the address of a row that does not exist is never formed
      const T* x = taps.first < taps.end ? row<T>(a.in, b, t + a.offset + taps.first * a.step) : nullptr;
      convolve_row(x, a.step * a.in.time_stride, weight + taps.first, bias, row<T>(a.out, b, t), C,
                   taps.end - taps.first);
    }
  });
  if (failed) out_of_memory();
}

// Sums over the rows of one block of dy: sums[k][c] of dy x, sums[taps][c] of dy.
template <class T>
void add_block(const DepthwiseConv1dWeightArgs& a, int64_t b, int64_t first, int64_t last, float* sums, int64_t plane) {
  const int64_t C = a.channels;
  for (int64_t t = first; t < last; ++t) {
    const T* dy = row<T>(a.dy, b, t);
    const TapRange taps = taps_of(t, a.taps, a.offset, a.step, a.time_in);
    const auto lanes = [&](int64_t i, int k) {
      const Vec d = load(dy + i, k);
      for (int64_t j = taps.first; j < taps.end; ++j) {
        float* s = sums + j * plane + i;
        store(s, fma(d, load(row<T>(a.x, b, t + a.offset + j * a.step) + i, k), load(s, k)), k);
      }
      float* s = sums + a.taps * plane + i;
      store(s, load(s, k) + d, k);
    };
    for_lanes(C, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
  }
}

template <class T>
void weight_gradient(const DepthwiseConv1dWeightArgs& a) {
  const int64_t C = a.channels, blocks = time_blocks(a.time), rows = a.batch * blocks, plane = rows * C;
  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / blocks, first = item % blocks * kTimeBlock;
      const int64_t last = first + kTimeBlock < a.time ? first + kTimeBlock : a.time;
      float* sums = a.partial + item * C;
      for (int64_t k = 0; k <= a.taps; ++k) memset(sums + k * plane, 0, sizeof(float) * static_cast<size_t>(C));
      add_block<T>(a, b, first, last, sums, plane);
    }
  });
  Scratch<1> scratch(C);
  if (!scratch.ready()) out_of_memory();
  for (int64_t k = 0; k < a.taps; ++k) {
    add_rows(a.partial + k * plane, rows, C, scratch.row(0));
    for (int64_t c = 0; c < C; ++c) static_cast<T*>(a.dweight)[c * a.taps + k] = narrow<T>(scratch.row(0)[c]);
  }
  add_rows(a.partial + a.taps * plane, rows, C, static_cast<T*>(a.dbias));
}

}  // namespace

void depthwise_conv1d(const DepthwiseConv1dArgs& a) {
  with_type(a.dtype, [&](auto t) { convolve<decltype(t)>(a); });
}
void depthwise_conv1d_weight(const DepthwiseConv1dWeightArgs& a) {
  with_type(a.dtype, [&](auto t) { weight_gradient<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
