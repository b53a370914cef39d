// SPDX-License-Identifier: Apache-2.0
// A vector of float lanes whose width is the ISA's: scalar 1, AVX2 8, AVX-512 16. Storage types are widened on load and
// rounded to nearest even on store. Loads and stores take any alignment; the `n` forms touch n < lanes elements only
// and load zeros beyond; with a
// constant n == lanes they are the plain ones. All of it lives in the ISA's namespace, so the linker can never hand
// AVX-512 code to an older CPU.
#pragma once
#include <cstdint>
#include <cstring>

#include "../dtype.h"

#ifndef PRESTISSIMO_ISA
#error "vec.h is for kernels that are compiled once per ISA"
#endif

namespace prestissimo::cpu::PRESTISSIMO_ISA {

inline float bits_to_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline uint32_t float_to_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

inline float widen(float x) { return x; }
inline float widen(bfloat16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
  if (magnitude >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // 2^112 rescales the exponent bias from 15 to 127, subnormals included
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}

template <class T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) {
  return x;
}
template <>
inline bfloat16 narrow<bfloat16>(float x) {
  const uint32_t u = float_to_bits(x);
  if (x != x) return {static_cast<uint16_t>(u >> 16 | 0x40)};
  return {static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
template <>
inline float16 narrow<float16>(float x) {
  const uint32_t u = float_to_bits(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // rounds to 65536 or more
  if (magnitude < 0x38800000) {
    // below 2^-14: adding 0.5 leaves the value as a multiple of 2^-24 in the low mantissa bits, rounded by the hardware
    const float r = bits_to_float(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (float_to_bits(r) - float_to_bits(0.5f)))};
  }
  const uint32_t r = magnitude + 0xfff + (magnitude >> 13 & 1);
  return {static_cast<uint16_t>(sign | ((r >> 13) - (112 << 10)))};
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA

namespace prestissimo::cpu::PRESTISSIMO_ISA {
constexpr int32_t kSqrtHalfBits = 0x3f3504f3;  // of the float next to sqrt(1/2)
}

// Beyond arithmetic every ISA offers: max and min, which give b where a or b is NaN; less and equal, false for NaN;
// select(mask, yes, no); bits(mask), lane 0 lowest; magnitude(a); with_sign(magnitude, sign); reciprocal(a) of a in
// [1, 2^126] within a unit; round to nearest even; scale_by_power_of_two(a, n), n whole;
// rsqrt(a) of normal a > 0 within 2^-21;
// split(x) for normal x > 0: x = fraction 2^exponent, fraction in [sqrt(1/2), sqrt(2)); sum and max_lane over the
// lanes.
#if defined(__AVX512F__)
#include "vec_avx512.h"
#elif defined(__AVX2__)
#include "vec_avx2.h"
#else
#include "vec_scalar.h"
#endif

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// A block is four vectors of consecutive elements; vector j of it holds the elements that come cheapest: for bf16 of
// one pair of vectors the even ones (j even) or the odd ones (j odd), each one shift or mask away from a load, and
// joined again by a shift and a blend. Sums do not care, and what meets a block element by element is loaded the same
// way.
template <class T>
inline Vec load_of_block(const T* p, int j) {
  return load(p + j * Vec::lanes);
}
template <class T>
inline void store_block(T* p, const Vec (&x)[4]) {
  for (int j = 0; j < 4; ++j) store(p + j * Vec::lanes, x[j]);
}
template <class T>
inline void stream_block(T* p, const Vec (&x)[4]) {
  for (int j = 0; j < 4; ++j) stream(p + j * Vec::lanes, x[j]);
}
#if defined(__AVX2__)
inline Vec load_of_block(const bfloat16* p, int j) { return load_half(p + j / 2 * 2 * Vec::lanes, j % 2); }
inline void store_block(bfloat16* p, const Vec (&x)[4]) {
  for (int j = 0; j < 4; j += 2) store_halves(p + j * Vec::lanes, to_bfloat16(x[j], x[j + 1]));
}
inline void stream_block(bfloat16* p, const Vec (&x)[4]) {
  for (int j = 0; j < 4; j += 2) stream_halves(p + j * Vec::lanes, to_bfloat16(x[j], x[j + 1]));
}
#endif

// Runs vector(i) on whole vectors of [0, n) and tail(i, count) on the rest.
template <class Vector, class Tail>
inline void for_lanes(int64_t n, const Vector& vector, const Tail& tail) {
  int64_t i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) vector(i);
  if (i < n) tail(i, static_cast<int>(n - i));
}

// The same with blocks of four vectors before the tail.
template <class Block, class Tail>
inline void for_blocks(int64_t n, const Block& block, const Tail& tail) {
  int64_t i = 0;
  for (; i + 4 * Vec::lanes <= n; i += 4 * Vec::lanes) block(i);
  for (; i + Vec::lanes <= n; i += Vec::lanes) tail(i, Vec::lanes);
  if (i < n) tail(i, static_cast<int>(n - i));
}

// Sum of term(i, count) over [0, n) with four independent accumulators; the order depends on n and the ISA alone.
template <class Term>
inline float sum_lanes(int64_t n, const Term& term) {
  constexpr int L = Vec::lanes;
  Vec a = zero(), b = zero(), c = zero(), d = zero();
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L) {
    a = a + term(i, L);
    b = b + term(i + L, L);
    c = c + term(i + 2 * L, L);
    d = d + term(i + 3 * L, L);
  }
  for (; i + L <= n; i += L) a = a + term(i, L);
  if (i < n) b = b + term(i, static_cast<int>(n - i));
  return sum((a + b) + (c + d));
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
