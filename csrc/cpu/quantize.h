// SPDX-License-Identifier: Apache-2.0
// The scale of a row in int8; formulas in ops/quantize_rows.h.
#pragma once
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// The largest magnitude as an integer of the same order, in which NaN is above infinity.
inline float largest_magnitude(const float* x, int64_t n) {
  int32_t m = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto u = static_cast<int32_t>(float_to_bits(x[i]) & 0x7fffffff);
    m = u > m ? u : m;
  }
  return bits_to_float(static_cast<uint32_t>(m));
}
template <class T>
float largest_magnitude(const T* x, int64_t n) {
  int16_t m = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto u = static_cast<int16_t>(x[i].bits & 0x7fff);
    m = u > m ? u : m;
  }
  return widen(T{static_cast<uint16_t>(m)});
}

struct Int8Scale {
  float scale, by;  // y = round(x * by)
  bool finite;

  explicit Int8Scale(float m) : finite(m < __builtin_inff()) {
    const float inverse = 127.0f / m;
    scale = finite ? m / 127.0f : __builtin_nanf("");
    by = !finite ? 0.0f : inverse < __FLT_MAX__ ? inverse : __FLT_MAX__;
  }
};

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
