// SPDX-License-Identifier: Apache-2.0
// Counter-based noise, normal and Gumbel, format 1: the same bits on every ISA, thread count and device.
//
// Philox4x32-10 (Salmon et al., SC 2011): key = (seed low, seed high), counter = (element / 4 low, high, item, stream).
// The four words give four normals by two Box-Muller pairs, or four Gumbel variates. Every step is an exactly rounded
// IEEE operation: integer arithmetic, one conversion, sqrt, and fma where it is written; contraction stays off in every
// file that includes this.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define PRESTISSIMO_HD __host__ __device__ inline
#else
#define PRESTISSIMO_HD inline
#endif

// PRESTISSIMO_PHILOX_NAMESPACE lets each CPU ISA have its own copy (see cpu/vec.h on why).
#ifndef PRESTISSIMO_PHILOX_NAMESPACE
#define PRESTISSIMO_PHILOX_NAMESPACE prestissimo::philox
#endif

namespace PRESTISSIMO_PHILOX_NAMESPACE {

PRESTISSIMO_HD float fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}
PRESTISSIMO_HD float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
PRESTISSIMO_HD float square_root(float a) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return __builtin_sqrtf(a);
#endif
}
PRESTISSIMO_HD float from_bits(uint32_t u) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(u);
#else
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
#endif
}
PRESTISSIMO_HD uint32_t to_bits(float f) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(f);
#else
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
#endif
}

PRESTISSIMO_HD uint32_t high_product(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}

struct Words {
  uint32_t w0, w1, w2, w3;
};

PRESTISSIMO_HD Words philox4x32_10(Words c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint32_t h0 = high_product(0xD2511F53u, c.w0), l0 = 0xD2511F53u * c.w0;
    const uint32_t h1 = high_product(0xCD9E8D57u, c.w2), l1 = 0xCD9E8D57u * c.w2;
    c = {h1 ^ c.w1 ^ key0, l1, h0 ^ c.w3 ^ key1, l0};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

// ln(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1): f - f^2/2 + f^3 P(f); relative error 6e-8.
PRESTISSIMO_HD float log_one_plus(float f) {
  float p = 0.087002255f;
  p = fma(p, f, -0.14267458f);
  p = fma(p, f, 0.149148211f);
  p = fma(p, f, -0.16577588f);
  p = fma(p, f, 0.199630603f);
  p = fma(p, f, -0.250013381f);
  p = fma(p, f, 0.333339095f);
  const float f2 = multiply(f, f);
  return f + fma(multiply(p, f), f2, multiply(f2, -0.5f));
}

// ln(u) for normal u > 0: u = 2^e m with m in [sqrt(1/2), sqrt(2)).
PRESTISSIMO_HD float log(float u) {
  const uint32_t shifted = to_bits(u) - 0x3f3504f3u;
  const float e = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float f = from_bits((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  return fma(e, 0.693147182f, log_one_plus(f));
}

struct Normals {
  float z0, z1;
};

// Radius from one word, angle from the other: z = sqrt(-2 ln u) (cos, sin). The top two bits of `angle`, rounded, are
// the quadrant; what is left is t in [-1/2, 1/2) of a quarter turn, where short polynomials are exact to 3e-8.
PRESTISSIMO_HD Normals box_muller(uint32_t radius, uint32_t angle) {
  const float u = fma(static_cast<float>(radius), 0x1p-32f, 0x1p-33f);
  const float r = square_root(multiply(-2.0f, log(u)));
  const uint32_t quadrant = (angle + 0x20000000u) >> 30;
  const float t = multiply(static_cast<float>(static_cast<int32_t>(angle << 2)), 0x1p-32f);
  const float t2 = multiply(t, t);
  float s = -0.00460219616f;
  s = fma(s, t2, 0.0796802342f);
  s = fma(s, t2, -0.64596349f);
  s = multiply(fma(s, t2, 1.57079637f), t);
  float c = 0.000903634122f;
  c = fma(c, t2, -0.0208600722f);
  c = fma(c, t2, 0.253669202f);
  c = fma(c, t2, -1.23370051f);
  c = fma(c, t2, 1.0f);
  const bool swap = quadrant & 1u;
  const uint32_t cos_sign = ((quadrant + 1u) & 2u) << 30, sin_sign = (quadrant & 2u) << 30;
  return {multiply(r, from_bits(to_bits(swap ? s : c) ^ cos_sign)),
          multiply(r, from_bits(to_bits(swap ? c : s) ^ sin_sign))};
}

// A standard Gumbel variate -ln E with E = -ln(1 - v), v = (word + 1/2) / 2^32: from v itself where that is small, so
// that the upper tail is as fine as the lower; values lie in [-3.14, 22.88].
PRESTISSIMO_HD float gumbel(uint32_t word) {
  const bool small = word < 0x40000000u;
  const float v = fma(static_cast<float>(small ? word : ~word), 0x1p-32f, 0x1p-33f);
  return -log(-(small ? log_one_plus(-v) : log(v)));
}

}  // namespace PRESTISSIMO_PHILOX_NAMESPACE
