// SPDX-License-Identifier: Apache-2.0
// Base: AVX-512 F, BW, DQ, VL. bf16 is rounded with integers even where AVX512_BF16 exists: vcvtneps2bf16 flushes
// subnormals to zero, which torch does not.
#pragma once
#include <immintrin.h>

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct Vec {
  static constexpr int lanes = 16;
  __m512 v;
};

struct Split {
  Vec fraction, exponent;
};

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }

inline __mmask16 lane_mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline __m512 from_bfloat16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
inline __m256i to_bfloat16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load(const bfloat16* p) { return {from_bfloat16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline Vec load(const float16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline Vec load(const float* p, int n) {
  return n == Vec::lanes ? load(p) : Vec{_mm512_maskz_loadu_ps(lane_mask(n), p)};
}
inline Vec load(const bfloat16* p, int n) {
  return n == Vec::lanes ? load(p) : Vec{from_bfloat16(_mm256_maskz_loadu_epi16(lane_mask(n), p))};
}
inline Vec load(const float16* p, int n) {
  return n == Vec::lanes ? load(p) : Vec{_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lane_mask(n), p))};
}

inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.v); }
inline void store(bfloat16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bfloat16(x.v)); }
inline void store(float16* p, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(float* p, Vec x, int n) {
  if (n == Vec::lanes) return store(p, x);
  _mm512_mask_storeu_ps(p, lane_mask(n), x.v);
}
inline void store(bfloat16* p, Vec x, int n) {
  if (n == Vec::lanes) return store(p, x);
  _mm256_mask_storeu_epi16(p, lane_mask(n), to_bfloat16(x.v));
}
inline void store(float16* p, Vec x, int n) {
  if (n == Vec::lanes) return store(p, x);
  _mm256_mask_storeu_epi16(p, lane_mask(n), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}

// Whole numbers of at most 127, rounded to nearest even.
inline void store(int8_t* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)));
}
inline void store(int8_t* p, Vec x, int n) {
  if (n == Vec::lanes) return store(p, x);
  _mm512_mask_cvtepi32_storeu_epi8(p, lane_mask(n), _mm512_cvtps_epi32(x.v));
}

inline void stream(float* p, Vec x) { _mm512_stream_ps(p, x.v); }
inline void stream(bfloat16* p, Vec x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_bfloat16(x.v)); }
inline void stream(float16* p, Vec x) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void stream_fence() { _mm_sfence(); }

// The even (half 0) or odd elements of the 32 at p, and the way back.
inline Vec load_half(const bfloat16* p, int half) {
  const __m512i pair = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(half ? _mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000)))
                                   : _mm512_slli_epi32(pair, 16))};
}
// Rounded in the upper 16 bits: to nearest, ties to even.
inline __m512i rounded_above(__m512 x) {
  const __m512i u = _mm512_castps_si512(x), r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(r, _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000)), u, _mm512_set1_epi32(0x8000));
}
inline __m512i to_bfloat16(Vec even, Vec odd) {  // rounding in 16-bit lanes, with vpavgw for the carry, was no faster
  if (__builtin_expect(_mm512_cmp_ps_mask(even.v, odd.v, _CMP_UNORD_Q), 0)) {
    const __m512i low = _mm512_cvtepu16_epi32(to_bfloat16(even.v)), high = _mm512_cvtepu16_epi32(to_bfloat16(odd.v));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
  const __m512i low = _mm512_srli_epi32(rounded_above(even.v), 16);
  return _mm512_mask_blend_epi16(0xaaaaaaaa, low, rounded_above(odd.v));
}
inline void store_halves(bfloat16* p, __m512i pair) { _mm512_storeu_si512(p, pair); }
inline void stream_halves(bfloat16* p, __m512i pair) {
  _mm512_stream_si512(static_cast<__m512i*>(static_cast<void*>(p)), pair);
}

inline Vec keep(Vec x, int n) {
  return n == Vec::lanes ? x : Vec{_mm512_maskz_mov_ps(n >= 16 ? 0xffff : lane_mask(n), x.v)};
}

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec rsqrt(Vec a) {
  const Vec y = {_mm512_rsqrt14_ps(a.v)};
  return y * fnma(a * y, y * broadcast(0.5f), broadcast(1.5f));
}
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

inline Vec magnitude(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec with_sign(Vec magnitude, Vec sign) {
  const __m512i bit = _mm512_set1_epi32(INT32_MIN);  // bit ? sign : magnitude
  return {_mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign.v), _mm512_castps_si512(magnitude.v), 0xca))};
}
// An estimate of 14 bits and one step of Newton.
inline Vec reciprocal(Vec a) {
  const __m512 r = _mm512_rcp14_ps(a.v);
  return {_mm512_mul_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(2.0f)))};
}

using Mask = __mmask16;
inline Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m, no.v, yes.v)}; }
inline unsigned bits(Mask m) { return m; }

inline Vec scale_by_power_of_two(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline Split split(Vec x) {
  const __m512i shifted = _mm512_sub_epi32(_mm512_castps_si512(x.v), _mm512_set1_epi32(kSqrtHalfBits));
  const __m512i fraction = _mm512_and_si512(shifted, _mm512_set1_epi32(0x7fffff));
  return {{_mm512_castsi512_ps(_mm512_add_epi32(fraction, _mm512_set1_epi32(kSqrtHalfBits)))},
          {_mm512_cvtepi32_ps(_mm512_srai_epi32(shifted, 23))}};
}

// Halves are added lane by lane, so the order is the same tree on every compiler.
inline float sum(Vec a) {
  const __m256 o = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 h = _mm_add_ps(_mm256_castps256_ps128(o), _mm256_extractf128_ps(o, 1));
  const __m128 q = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

inline float max_lane(Vec a) {
  const __m256 o = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 h = _mm_max_ps(_mm256_castps256_ps128(o), _mm256_extractf128_ps(o, 1));
  const __m128 q = _mm_max_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
