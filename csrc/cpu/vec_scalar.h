// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct Vec {
  static constexpr int lanes = 1;
  float v;
};

struct Split {
  Vec fraction, exponent;
};

inline Vec zero() { return {0.0f}; }
inline Vec broadcast(float x) { return {x}; }

template <class T>
inline Vec load(const T* p) {
  return {widen(*p)};
}
template <class T>
inline Vec load(const T* p, int n) {
  return n > 0 ? load(p) : zero();
}
template <class T>
inline void store(T* p, Vec x) {
  *p = narrow<T>(x.v);
}
template <class T>
inline void store(T* p, Vec x, int n) {
  if (n > 0) store(p, x);
}
// Whole numbers of at most 127, rounded to nearest even: 1.5 * 2^23 leaves them in the low bits of the sum.
inline void store(int8_t* p, Vec x) { *p = static_cast<int8_t>(float_to_bits(x.v + 0x1.8p23f)); }
inline void store(int8_t* p, Vec x, int) { store(p, x); }

template <class T>
inline void stream(T* p, Vec x) {
  store(p, x);
}
inline void stream_fence() {}
inline Vec keep(Vec x, int n) { return n > 0 ? x : zero(); }

inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {c.v - a.v * b.v}; }
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
inline Vec rsqrt(Vec a) { return {1.0f / __builtin_sqrtf(a.v)}; }
inline Vec round(Vec a) { return {__builtin_rintf(a.v)}; }

inline Vec magnitude(Vec a) { return {__builtin_fabsf(a.v)}; }
inline Vec with_sign(Vec magnitude, Vec sign) { return {__builtin_copysignf(magnitude.v, sign.v)}; }
inline Vec reciprocal(Vec a) { return {1.0f / a.v}; }

using Mask = bool;
inline Mask less(Vec a, Vec b) { return a.v < b.v; }
inline Mask equal(Vec a, Vec b) { return a.v == b.v; }
inline Vec select(Mask m, Vec yes, Vec no) { return m ? yes : no; }
inline unsigned bits(Mask m) { return m; }

// In two steps, because 2^n alone overflows or loses bits where a 2^n does not.
inline Vec scale_by_power_of_two(Vec a, Vec n) {
  const int32_t whole = n.v == n.v ? static_cast<int32_t>(n.v) : 0, half = whole >> 1;
  const uint32_t first = static_cast<uint32_t>(half + 127), second = static_cast<uint32_t>(whole - half + 127);
  return {a.v * bits_to_float(first << 23) * bits_to_float(second << 23)};
}
inline Split split(Vec x) {
  const uint32_t shifted = float_to_bits(x.v) - kSqrtHalfBits;
  return {{bits_to_float((shifted & 0x7fffff) + kSqrtHalfBits)},
          {static_cast<float>(static_cast<int32_t>(shifted) >> 23)}};
}

inline float sum(Vec a) { return a.v; }
inline float max_lane(Vec a) { return a.v; }

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
