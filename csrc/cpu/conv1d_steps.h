// SPDX-License-Identifier: Apache-2.0
// The steps that a convolution's windows meet, as rows of channels.
#pragma once
#include "../ops/conv1d.h"
#include "snake.h"
#include "transpose.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

template <class T>
const T* step_of(const RowView& v, int64_t b, int64_t t) {
  return static_cast<const T*>(v.data) + b * v.batch_stride + t * v.time_stride;
}

// out[t][c] = x[c][t], t < n; of 16 bits two channels at once.
template <class T>
void turn(const T* x, int64_t stride_c, int64_t C, int64_t n, T* out) {
  constexpr int64_t kOf = 4 / sizeof(T), kAcross = 16 * kOf;
  for (int64_t c = 0; c < C; c += kAcross)
    for (int64_t t = 0; t < n; t += 16) {
      const T* from = x + c * stride_c + t;
      T* to = out + t * C + c;
      if (c + kAcross > C || t + 16 > n) {
        for (int64_t i = 0; i < n - t && i < 16; ++i)
          for (int64_t j = 0; j < C - c && j < kAcross; ++j) to[i * C + j] = from[j * stride_c + i];
        continue;
      }
      alignas(64) uint32_t pairs[16][16], turned[16][16];
      if constexpr (kOf == 2) {
        for (int64_t j = 0; j < 16; ++j) interleave(from + 2 * j * stride_c, from + (2 * j + 1) * stride_c, pairs[j]);
        transpose(pairs[0], 16, 16, 16, turned[0], 16);
      } else {
        transpose(reinterpret_cast<const uint32_t*>(from), stride_c, 16, 16, turned[0], 16);
      }
      for (int64_t i = 0; i < 16; ++i) memcpy(to + i * C, turned[i], 64);
    }
}

// The steps of x that `count` windows meet, snaked, zeros beyond the ends of x. What the windows that follow meet again
// stays where it is made.
template <class T>
class Steps {
 public:
  Steps(const Conv1dArgs& a, const float* constants, T* memory)
      : a_(a), alpha_(constants), inverse_(constants + a.channels), memory_(memory) {}

  static int64_t reach(const Conv1dArgs& a) { return (a.taps - 1) * a.dilation; }

  const T* meet(int64_t b, int64_t t, int64_t count) {
    const int64_t first = t - a_.padding, end = first + count + reach(a_), C = a_.channels;
    int64_t step = first;
    if (b == sample_ && first > first_ && first < end_) {
      memmove(memory_, memory_ + (first - first_) * C, sizeof(T) * static_cast<size_t>((end_ - first) * C));
      step = end_;
    }
    if (a_.stride_c != 1) {  // all of them, before what is made of each
      const int64_t from = step > 0 ? step : 0, to = end < a_.time_in ? end : a_.time_in;
      if (from < to) turn(step_of<T>(a_.x, b, from), a_.stride_c, C, to - from, memory_ + (from - first) * C);
    }
    for (; step < end; ++step) make(b, step, memory_ + (step - first) * C);
    sample_ = b, first_ = first, end_ = end;
    return memory_;
  }

 private:
  void make(int64_t b, int64_t step, T* out) const {
    const size_t bytes = sizeof(T) * static_cast<size_t>(a_.channels);
    if (step < 0 || step >= a_.time_in) {
      memset(out, 0, bytes);
      return;
    }
    const T* x = a_.stride_c == 1 ? step_of<T>(a_.x, b, step) : out;
    if (a_.alpha)
      snake_row(x, out, alpha_, inverse_, a_.channels);
    else if (x != out)
      memcpy(out, x, bytes);
  }

  const Conv1dArgs& a_;
  const float *alpha_, *inverse_;
  T* memory_;
  int64_t sample_ = -1, first_ = 0, end_ = 0;
};

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
