// SPDX-License-Identifier: Apache-2.0
// Exchanges between the lanes of a Vec: reversal, even and odd elements, square transposes. `Single` is a Vec of one
// lane in every ISA, for sizes below a vector's.
#pragma once
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct Single {
  static constexpr int lanes = 1;
  float v;
};
inline Single operator+(Single a, Single b) { return {a.v + b.v}; }
inline Single operator-(Single a, Single b) { return {a.v - b.v}; }
inline Single operator*(Single a, Single b) { return {a.v * b.v}; }
inline Single fma(Single a, Single b, Single c) { return {a.v * b.v + c.v}; }

template <class V>
inline V load_as(const float* p);
template <>
inline Vec load_as<Vec>(const float* p) {
  return load(p);
}
template <>
inline Single load_as<Single>(const float* p) {
  return {*p};
}
inline void store(float* p, Single x) { *p = x.v; }
template <class V>
inline V broadcast_as(float x);
template <>
inline Vec broadcast_as<Vec>(float x) {
  return broadcast(x);
}
template <>
inline Single broadcast_as<Single>(float x) {
  return {x};
}

inline Single reverse(Single x) { return x; }
inline void transpose(Single (&)[1]) {}

#if defined(__AVX512F__)

inline Vec reverse(Vec x) {
  return {_mm512_permutexvar_ps(_mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), x.v)};
}
// lane i takes lane index[i]
inline Vec pick(Vec x, const int32_t* index) { return {_mm512_permutexvar_ps(_mm512_loadu_si512(index), x.v)}; }
// a holds elements 0 ... 15 of a row, b the next 16: a becomes the even ones, b the odd ones
inline void split_pairs(Vec& a, Vec& b) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512 e = _mm512_permutex2var_ps(a.v, even, b.v);
  b.v = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b.v);
  a.v = e;
}
inline void join_pairs(Vec& a, Vec& b) {
  const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512 l = _mm512_permutex2var_ps(a.v, low, b.v);
  b.v = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(low, _mm512_set1_epi32(8)), b.v);
  a.v = l;
}
// Rows to columns of a 16 x 16 square: pairs of elements, of pairs, then of quarters, 64 exchanges.
inline void transpose(Vec (&r)[16]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  const auto low = [](__m512 x, __m512 y) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  const auto high = [](__m512 x, __m512 y) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  for (int i = 0; i < 16; i += 4) {
    b[i] = low(a[i], a[i + 2]);
    b[i + 1] = high(a[i], a[i + 2]);
    b[i + 2] = low(a[i + 1], a[i + 3]);
    b[i + 3] = high(a[i + 1], a[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    a[j] = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x88);
    a[j + 4] = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xdd);
    a[j + 8] = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0x88);
    a[j + 12] = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0xdd);
  }
  for (int j = 0; j < 4; ++j) {
    r[j].v = _mm512_shuffle_f32x4(a[j], a[j + 8], 0x88);
    r[j + 8].v = _mm512_shuffle_f32x4(a[j], a[j + 8], 0xdd);
    r[j + 4].v = _mm512_shuffle_f32x4(a[j + 4], a[j + 12], 0x88);
    r[j + 12].v = _mm512_shuffle_f32x4(a[j + 4], a[j + 12], 0xdd);
  }
}

#elif defined(__AVX2__)

inline Vec reverse(Vec x) { return {_mm256_permutevar8x32_ps(x.v, _mm256_set_epi32(0, 1, 2, 3, 4, 5, 6, 7))}; }
inline Vec pick(Vec x, const int32_t* index) {
  return {_mm256_permutevar8x32_ps(x.v, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)))};
}
inline void split_pairs(Vec& a, Vec& b) {
  const __m256 l = _mm256_permute2f128_ps(a.v, b.v, 0x20), h = _mm256_permute2f128_ps(a.v, b.v, 0x31);
  a.v = _mm256_shuffle_ps(l, h, 0x88);
  b.v = _mm256_shuffle_ps(l, h, 0xdd);
}
inline void join_pairs(Vec& a, Vec& b) {
  const __m256 l = _mm256_unpacklo_ps(a.v, b.v), h = _mm256_unpackhi_ps(a.v, b.v);
  a.v = _mm256_permute2f128_ps(l, h, 0x20);
  b.v = _mm256_permute2f128_ps(l, h, 0x31);
}
inline void transpose(Vec (&r)[8]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
    a[i + 1] = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    r[j].v = _mm256_permute2f128_ps(b[j], b[j + 4], 0x20);
    r[j + 4].v = _mm256_permute2f128_ps(b[j], b[j + 4], 0x31);
  }
}

#else

inline Vec reverse(Vec x) { return x; }
inline Vec pick(Vec x, const int32_t*) { return x; }
inline void transpose(Vec (&)[1]) {}
// One lane: an even and an odd element already.
inline void split_pairs(Vec&, Vec&) {}
inline void join_pairs(Vec&, Vec&) {}

#endif

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
