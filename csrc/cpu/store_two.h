// SPDX-License-Identifier: Apache-2.0
// Two vectors side by side: bfloat16 is then rounded in their own order by 4 operations a vector in place of 10.
#pragma once
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

template <class T>
inline void store_two(T* p, Vec a, Vec b) {
  store(p, a);
  store(p + Vec::lanes, b);
}
#if defined(__AVX512F__)
// The upper halves of what rounding leaves.
inline __m512i to_bfloat16_in_order(Vec a, Vec b) {
  if (__builtin_expect(_mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q), 0))
    return _mm512_inserti64x4(_mm512_castsi256_si512(to_bfloat16(a.v)), to_bfloat16(b.v), 1);
  alignas(64) static constexpr uint16_t upper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                     33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  return _mm512_permutex2var_epi16(rounded_above(a.v), _mm512_load_si512(upper), rounded_above(b.v));
}
inline void store_two(bfloat16* p, Vec a, Vec b) { store_halves(p, to_bfloat16_in_order(a, b)); }
#endif

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
