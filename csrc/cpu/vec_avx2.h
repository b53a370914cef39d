// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <immintrin.h>

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct Vec {
  static constexpr int lanes = 8;
  __m256 v;
};

struct Split {
  Vec fraction, exponent;
};

inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }

inline __m256i lane_mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline __m256 from_bfloat16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
inline __m128i to_bfloat16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec load(const bfloat16* p) { return {from_bfloat16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline Vec load(const float16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }

inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.v); }
inline void store(bfloat16* p, Vec x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bfloat16(x.v)); }
inline void store(float16* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}

inline Vec load(const float* p, int n) { return n == Vec::lanes ? load(p) : Vec{_mm256_maskload_ps(p, lane_mask(n))}; }
inline void store(float* p, Vec x, int n) {
  if (n == Vec::lanes) return store(p, x);
  _mm256_maskstore_ps(p, lane_mask(n), x.v);
}

template <class T>
inline Vec load(const T* p, int n) {
  if (n == Vec::lanes) return load(p);
  T buffer[8] = {};
  memcpy(buffer, p, sizeof(T) * static_cast<size_t>(n));
  return load(buffer);
}
template <class T>
inline void store(T* p, Vec x, int n) {
  if (n == Vec::lanes) return store(p, x);
  T buffer[8];
  store(buffer, x);
  memcpy(p, buffer, sizeof(T) * static_cast<size_t>(n));
}

// Whole numbers of at most 127, rounded to nearest even.
inline void store(int8_t* p, Vec x) {
  const __m256i whole = _mm256_cvtps_epi32(x.v);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline void store(int8_t* p, Vec x, int n) {
  if (n == Vec::lanes) return store(p, x);
  int8_t all[Vec::lanes];
  store(all, x);
  memcpy(p, all, static_cast<size_t>(n));
}

inline void stream(float* p, Vec x) { _mm256_stream_ps(p, x.v); }
inline void stream(bfloat16* p, Vec x) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to_bfloat16(x.v)); }
inline void stream(float16* p, Vec x) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void stream_fence() { _mm_sfence(); }

// The even (half 0) or odd elements of the 16 at p, and the way back.
inline Vec load_half(const bfloat16* p, int half) {
  const __m256i pair = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_castsi256_ps(half ? _mm256_and_si256(pair, _mm256_set1_epi32(static_cast<int>(0xffff0000)))
                                   : _mm256_slli_epi32(pair, 16))};
}
// Rounded in the upper 16 bits: to nearest, ties to even.
inline __m256i rounded_above(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}
inline __m256i to_bfloat16(Vec even, Vec odd) {
  if (__builtin_expect(_mm256_movemask_ps(_mm256_cmp_ps(even.v, odd.v, _CMP_UNORD_Q)), 0)) {
    const __m256i low = _mm256_cvtepu16_epi32(to_bfloat16(even.v)), high = _mm256_cvtepu16_epi32(to_bfloat16(odd.v));
    return _mm256_or_si256(low, _mm256_slli_epi32(high, 16));
  }
  return _mm256_blend_epi16(_mm256_srli_epi32(rounded_above(even.v), 16), rounded_above(odd.v), 0xaa);
}
inline void store_halves(bfloat16* p, __m256i pair) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pair); }
inline void stream_halves(bfloat16* p, __m256i pair) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), pair); }

inline Vec keep(Vec x, int n) {
  return n == Vec::lanes ? x : Vec{_mm256_and_ps(x.v, _mm256_castsi256_ps(lane_mask(n)))};
}

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec rsqrt(Vec a) {
  const Vec y = {_mm256_rsqrt_ps(a.v)};
  return y * fnma(a * y, y * broadcast(0.5f), broadcast(1.5f));
}
inline Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

inline Vec magnitude(Vec a) { return {_mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)))}; }
inline Vec with_sign(Vec magnitude, Vec sign) {
  const __m256 bit = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MIN));
  return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v))};
}
// The 12 bits of rcpps and a step of Newton would leave 2 units of error, and other bits on another maker's processor.
inline Vec reciprocal(Vec a) { return {_mm256_div_ps(_mm256_set1_ps(1.0f), a.v)}; }

struct Mask {
  __m256 m;
};
inline Mask less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }
inline unsigned bits(Mask m) { return static_cast<unsigned>(_mm256_movemask_ps(m.m)); }

// In two steps, because 2^n alone overflows or loses bits where a 2^n does not.
inline Vec scale_by_power_of_two(Vec a, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))};
}
inline Split split(Vec x) {
  const __m256i shifted = _mm256_sub_epi32(_mm256_castps_si256(x.v), _mm256_set1_epi32(kSqrtHalfBits));
  const __m256i fraction = _mm256_and_si256(shifted, _mm256_set1_epi32(0x7fffff));
  return {{_mm256_castsi256_ps(_mm256_add_epi32(fraction, _mm256_set1_epi32(kSqrtHalfBits)))},
          {_mm256_cvtepi32_ps(_mm256_srai_epi32(shifted, 23))}};
}

inline float sum(Vec a) {
  const __m128 h = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 q = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

inline float max_lane(Vec a) {
  const __m128 h = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 q = _mm_max_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
