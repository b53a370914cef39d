// SPDX-License-Identifier: Apache-2.0
// One vector of each type of product, for the micro-kernel of gemm.cpp: Register of sums, the step's dword of 16, 8 or
// 16 columns of B, the dword of one row of A in all lanes. A type without a dot product takes its step in two parts.
#pragma once
#include "gemm.h"
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

#if defined(__AVX512F__)

struct FloatSums {
  using Sum = float;
  using Register = __m512;
  static constexpr int lanes = 16;
  static Register zero() { return _mm512_setzero_ps(); }
  static Register plus(Register a, Register b) { return _mm512_add_ps(a, b); }
  static Register load(const void* p) { return _mm512_loadu_ps(p); }
  static void store(void* p, Register v) { _mm512_storeu_ps(p, v); }
};
struct IntSums {
  using Sum = int32_t;
  using Register = __m512i;
  static constexpr int lanes = 16;
  static Register zero() { return _mm512_setzero_si512(); }
  static Register plus(Register a, Register b) { return _mm512_add_epi32(a, b); }
  static Register load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, Register v) { _mm512_storeu_si512(p, v); }
};
inline __m512i dword_of_all(const char* a) {
  int32_t u;
  memcpy(&u, a, 4);
  return _mm512_set1_epi32(u);
}

struct FloatProducts : FloatSums {
  static constexpr int parts = 1;
  static __m512 a(const char* p, int) { return _mm512_castsi512_ps(dword_of_all(p)); }
  static __m512 b(const char* p, int) { return _mm512_loadu_ps(p); }
  static Register add(Register sum, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sum); }
};

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
struct Bfloat16Products : FloatSums {
  static constexpr int parts = 1;
  static __m512i a(const char* p, int) { return dword_of_all(p); }
  static __m512i b(const char* p, int) { return _mm512_loadu_si512(p); }
  static Register add(Register sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
};
struct Int8Products : IntSums {
  static constexpr int parts = 1;
  static __m512i a(const char* p, int) { return dword_of_all(p); }
  static __m512i b(const char* p, int) { return _mm512_loadu_si512(p); }
  static Register add(Register sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); }
};
#else
// The odd k of a pair first, as vdpbf16ps does.
struct Bfloat16Products : FloatSums {
  static constexpr int parts = 2;
  static __m512 a(const char* p, int part) { return _mm512_castsi512_ps(dword_of_all(p + 4 - 4 * part)); }
  static __m512 b(const char* p, int part) {
    const __m512i pair = _mm512_loadu_si512(p);
    return _mm512_castsi512_ps(part == 0 ? _mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))
                                         : _mm512_slli_epi32(pair, 16));
  }
  static Register add(Register sum, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sum); }
};
// A holds int16 in the order k, k + 2, k + 1, k + 3 of a step; B's bytes are widened to the same two pairs.
struct Int8Products : IntSums {
  static constexpr int parts = 2;
  static __m512i a(const char* p, int part) { return dword_of_all(p + 4 * part); }
  static __m512i b(const char* p, int part) {
    const __m512i four = _mm512_loadu_si512(p);
    return _mm512_srai_epi16(part == 0 ? _mm512_slli_epi16(four, 8) : four, 8);
  }
  static Register add(Register sum, __m512i a, __m512i b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
};
#endif

inline Vec from_int32(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }

#elif defined(__AVX2__)

struct FloatSums {
  using Sum = float;
  using Register = __m256;
  static constexpr int lanes = 8;
  static Register zero() { return _mm256_setzero_ps(); }
  static Register plus(Register a, Register b) { return _mm256_add_ps(a, b); }
  static Register load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
  static void store(void* p, Register v) { _mm256_storeu_ps(static_cast<float*>(p), v); }
};
struct IntSums {
  using Sum = int32_t;
  using Register = __m256i;
  static constexpr int lanes = 8;
  static Register zero() { return _mm256_setzero_si256(); }
  static Register plus(Register a, Register b) { return _mm256_add_epi32(a, b); }
  static Register load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(void* p, Register v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
};
inline __m256i dword_of_all(const char* a) {
  int32_t u;
  memcpy(&u, a, 4);
  return _mm256_set1_epi32(u);
}

struct FloatProducts : FloatSums {
  static constexpr int parts = 1;
  static __m256 a(const char* p, int) { return _mm256_castsi256_ps(dword_of_all(p)); }
  static __m256 b(const char* p, int) { return _mm256_castsi256_ps(IntSums::load(p)); }
  static Register add(Register sum, __m256 a, __m256 b) { return _mm256_fmadd_ps(a, b, sum); }
};
struct Bfloat16Products : FloatSums {
  static constexpr int parts = 2;
  static __m256 a(const char* p, int part) { return _mm256_castsi256_ps(dword_of_all(p + 4 - 4 * part)); }
  static __m256 b(const char* p, int part) {
    const __m256i pair = IntSums::load(p);
    return _mm256_castsi256_ps(part == 0 ? _mm256_and_si256(pair, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))
                                         : _mm256_slli_epi32(pair, 16));
  }
  static Register add(Register sum, __m256 a, __m256 b) { return _mm256_fmadd_ps(a, b, sum); }
};
struct Int8Products : IntSums {
  static constexpr int parts = 2;
  static __m256i a(const char* p, int part) { return dword_of_all(p + 4 * part); }
  static __m256i b(const char* p, int part) {
    const __m256i four = IntSums::load(p);
    return _mm256_srai_epi16(part == 0 ? _mm256_slli_epi16(four, 8) : four, 8);
  }
  static Register add(Register sum, __m256i a, __m256i b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
};

inline Vec from_int32(const int32_t* p) { return {_mm256_cvtepi32_ps(IntSums::load(p))}; }

#else

// Sixteen lanes as an array: the compiler has what vectors the base instruction set offers.
template <class T>
struct Lanes {
  T v[16];
};
template <class T>
struct ArraySums {
  using Sum = T;
  using Register = Lanes<T>;
  static constexpr int lanes = 16;
  static Register zero() { return {}; }
  static Register plus(Register a, const Register& b) {
    for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
    return a;
  }
  static Register load(const void* p) {
    Register r;
    memcpy(&r, p, sizeof r);
    return r;
  }
  static void store(void* p, const Register& r) { memcpy(p, &r, sizeof r); }
};

struct FloatProducts : ArraySums<float> {
  static constexpr int parts = 1;
  static float a(const char* p, int part) {
    float x;
    memcpy(&x, p + 4 * part, 4);
    return x;
  }
  static Register b(const char* p, int) { return load(p); }
  static Register add(Register sum, float a, const Register& b) {
    for (int i = 0; i < 16; ++i) sum.v[i] += a * b.v[i];
    return sum;
  }
};
struct Bfloat16Products : FloatProducts {
  static constexpr int parts = 2;
  static float a(const char* p, int part) { return FloatProducts::a(p, 1 - part); }
  static Register b(const char* p, int part) {
    uint32_t pairs[16];
    memcpy(pairs, p, sizeof pairs);
    for (int i = 0; i < 16; ++i) pairs[i] = part == 0 ? pairs[i] & 0xffff0000u : pairs[i] << 16;
    return load(pairs);
  }
};
struct Int8Products : ArraySums<int32_t> {
  static constexpr int parts = 4;
  static int32_t a(const char* p, int part) {
    static constexpr int place[] = {0, 4, 2, 6};
    int16_t x;
    memcpy(&x, p + place[part], 2);
    return x;
  }
  static Register b(const char* p, int part) {
    Register r;
    for (int i = 0; i < 16; ++i) r.v[i] = static_cast<int8_t>(p[4 * i + part]);
    return r;
  }
  static Register add(Register sum, int32_t a, const Register& b) {
    for (int i = 0; i < 16; ++i) sum.v[i] += a * b.v[i];
    return sum;
  }
};

inline Vec from_int32(const int32_t* p) { return {static_cast<float>(*p)}; }

#endif

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
