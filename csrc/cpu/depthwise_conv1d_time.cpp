// SPDX-License-Identifier: Apache-2.0
#include "../ops/depthwise_conv1d_time.h"

#include "../ops/depthwise_conv1d.h"
#include "parallel.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Of a row at once. What these outputs meet of 16 bits is widened once, where it reaches no farther than kReach: every
// value is read once for each tap.
constexpr int64_t kPiece = 2048, kReach = 1024;

struct Channel {
  float weight[kMostTaps], bias;
  int64_t taps, step;
};

// y[i] = bias + sum_j weight[j] x[i + j step], taps in the order of depthwise_conv1d.cpp: the same bits. kTaps of them,
// or as many as there are where kTaps is 0.
template <int kTaps, class X, class T>
void convolve(const X* x, const Channel& c, T* y, int64_t n) {
  Vec weight[kMostTaps];
  for (int j = 0; j < kMostTaps; ++j) weight[j] = broadcast(c.weight[j]);
  const auto lanes = [&](int64_t i, int k) {
    Vec v = broadcast(c.bias);
    if constexpr (kTaps > 0) {
#pragma GCC unroll 7
      for (int j = 0; j < kTaps; ++j) v = fma(load(x + j * c.step + i, k), weight[j], v);
    } else {
      for (int64_t j = 0; j < c.taps; ++j) v = fma(load(x + j * c.step + i, k), weight[j], v);
    }
    store(y + i, v, k);
  };
  for_lanes(n, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
}

template <class X, class T>
void convolve(const X* x, const Channel& c, T* y, int64_t n) {
  switch (c.taps) {
    case 3: return convolve<3>(x, c, y, n);
    case 5: return convolve<5>(x, c, y, n);
    case 7: return convolve<7>(x, c, y, n);
    default: return convolve<0>(x, c, y, n);
  }
}

inline void convolve_piece(const float* x, const Channel& c, float* y, int64_t n) { convolve(x, c, y, n); }
template <class T>
void convolve_piece(const T* x, const Channel& c, T* y, int64_t n) {
  const int64_t reach = (c.taps - 1) * c.step;
  if (reach > kReach) return convolve(x, c, y, n);
  float wide[kPiece + kReach];
  for_lanes(
      n + reach, [&](int64_t i) { store(wide + i, load(x + i)); },
      [&](int64_t i, int k) { store(wide + i, load(x + i, k), k); });
  convolve(wide, c, y, n);
}

// An output some taps of which may lie outside x.
template <class T>
void convolve_at(const T* x, const Channel& c, int64_t time_in, int64_t first, T* y) {
  Vec v = broadcast(c.bias);
  for (int64_t j = 0; j < c.taps; ++j) {
    const int64_t t = first + j * c.step;
    if (t >= 0 && t < time_in) v = fma(load(x + t, 1), broadcast(c.weight[j]), v);
  }
  store(y, v, 1);
}

template <class T>
void convolve(const DepthwiseConv1dTimeArgs& a) {
  const int64_t pieces = (a.time + kPiece - 1) / kPiece, inner = a.time_in - (a.taps - 1) * a.step - a.offset;
  const int64_t grain = kGrainElements / (a.time < kPiece ? a.time : kPiece) + 1;
  parallel_for(a.batch * a.channels * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i / pieces, b = r / a.channels, c = r % a.channels;
      const T *x = row<T>(a.in, b, c), *weight = static_cast<const T*>(a.weight) + c * a.taps;
      T* y = row<T>(a.out, b, c);
      Channel channel{{}, a.bias ? widen(static_cast<const T*>(a.bias)[c]) : 0.0f, a.taps, a.step};
      for (int64_t j = 0; j < a.taps; ++j) channel.weight[j] = widen(weight[j]);
      const int64_t first = i % pieces * kPiece, last = first + kPiece < a.time ? first + kPiece : a.time;
      int64_t t = first;
      for (; t < last && t + a.offset < 0; ++t) convolve_at(x, channel, a.time_in, t + a.offset, y + t);
      const int64_t whole = last < inner ? last : inner;
      if (t < whole) convolve_piece(x + t + a.offset, channel, y + t, whole - t), t = whole;
      for (; t < last; ++t) convolve_at(x, channel, a.time_in, t + a.offset, y + t);
    }
  });
}

}  // namespace

void depthwise_conv1d_time(const DepthwiseConv1dTimeArgs& a) {
  with_type(a.dtype, [&](auto t) { convolve<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
