// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// out[j][i] = in[i][j] for i, j < kTile; strides in elements of four bytes.
#if defined(__AVX512F__)
constexpr int kTile = 16;
inline void transpose_tile(const uint32_t* in, int64_t in_stride, uint32_t* out, int64_t out_stride) {
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(in + i * in_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4 a + b] holds, for rows 4 a .. 4 a + 3, column 4 q + b in its quarter q.
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    const __m512i low = _mm512_shuffle_i32x4(r[b], r[4 + b], 0x88),
                  high = _mm512_shuffle_i32x4(r[8 + b], r[12 + b], 0x88);
    const __m512i low1 = _mm512_shuffle_i32x4(r[b], r[4 + b], 0xdd),
                  high1 = _mm512_shuffle_i32x4(r[8 + b], r[12 + b], 0xdd);
    _mm512_storeu_si512(out + b * out_stride, _mm512_shuffle_i32x4(low, high, 0x88));
    _mm512_storeu_si512(out + (8 + b) * out_stride, _mm512_shuffle_i32x4(low, high, 0xdd));
    _mm512_storeu_si512(out + (4 + b) * out_stride, _mm512_shuffle_i32x4(low1, high1, 0x88));
    _mm512_storeu_si512(out + (12 + b) * out_stride, _mm512_shuffle_i32x4(low1, high1, 0xdd));
  }
}
// a0 .. a15 b0 .. b15, of 16 bits each, as a0 b0 .. a15 b15.
inline __m512i interleave_halves(__m512i v) {
  alignas(64) static constexpr uint16_t kOrder[] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), v);
}
#elif defined(__AVX2__)
constexpr int kTile = 8;
inline void transpose_tile(const uint32_t* in, int64_t in_stride, uint32_t* out, int64_t out_stride) {
  __m256i r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i * in_stride));
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    auto* low = reinterpret_cast<__m256i*>(out + b * out_stride);
    auto* high = reinterpret_cast<__m256i*>(out + (4 + b) * out_stride);
    _mm256_storeu_si256(low, _mm256_permute2x128_si256(r[b], r[4 + b], 0x20));
    _mm256_storeu_si256(high, _mm256_permute2x128_si256(r[b], r[4 + b], 0x31));
  }
}
#else
constexpr int kTile = 4;
inline void transpose_tile(const uint32_t* in, int64_t in_stride, uint32_t* out, int64_t out_stride) {
  for (int i = 0; i < kTile; ++i)
    for (int j = 0; j < kTile; ++j) memcpy(out + j * out_stride + i, in + i * in_stride + j, 4);  // floats too
}
#endif

// out[j][i] = in[i][j] for i < rows and j < columns, multiples of kTile.
inline void transpose(const uint32_t* in, int64_t in_stride, int rows, int columns, uint32_t* out, int64_t out_stride) {
  for (int i = 0; i < rows; i += kTile)
    for (int j = 0; j < columns; j += kTile)
      transpose_tile(in + i * in_stride + j, in_stride, out + j * out_stride + i, out_stride);
}

// Sixteen values of 16 bits with those of another row above them.
inline void interleave(const void* low, const void* high, uint32_t* out) {
  uint16_t x[16], y[16];
  memcpy(x, low, 32), memcpy(y, high, 32);
  for (int i = 0; i < 16; ++i) out[i] = x[i] | static_cast<uint32_t>(y[i]) << 16;
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
