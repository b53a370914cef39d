// SPDX-License-Identifier: Apache-2.0
// exp and ln of float lanes, within two units in the last place, with IEEE results for zero, infinities and NaN.
#pragma once
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

inline Vec horner(Vec, Vec p) { return p; }
template <class... Rest>
inline Vec horner(Vec x, Vec p, float c, Rest... rest) {
  return horner(x, fma(p, x, broadcast(c)), rest...);
}

// x = n ln2 + r with |r| <= ln2 / 2, in two parts of ln2 so that n times the first is exact; e^r = 1 + r + r^2 P(r)
// (Cephes' coefficients). The clamp comes last in max and min, which hand on a NaN of their second operand.
inline Vec exp(Vec x) {
  const Vec c = max(broadcast(-104.0f), min(broadcast(89.0f), x));
  const Vec n = round(c * broadcast(1.44269504f));
  const Vec r = fnma(n, broadcast(-2.12194440e-4f), fnma(n, broadcast(0.693359375f), c));
  const Vec p = horner(r, broadcast(1.98756915e-4f), 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                       1.6666665459e-1f, 5.0000001201e-1f);
  return scale_by_power_of_two(fma(p, r * r, r) + broadcast(1.0f), n);
}

// x = 2^e (1 + f): ln x = e ln2 + f - f^2 / 2 + f^3 P(f), the polynomial of csrc/philox.h. Subnormals are lifted first.
inline Vec log(Vec x) {
  const Mask small = less(x, broadcast(0x1p-126f));
  const Split s = split(select(small, x * broadcast(0x1p24f), x));
  const Vec e = s.exponent - select(small, broadcast(24.0f), zero());
  const Vec f = s.fraction - broadcast(1.0f), f2 = f * f;
  const Vec p = horner(f, broadcast(0.087002255f), -0.14267458f, 0.149148211f, -0.16577588f, 0.199630603f,
                       -0.250013381f, 0.333339095f);
  // e ln2 in two parts: one rounding of it would be the largest error of ln x for large e
  const Vec low = fma(p * f, f2, fma(f2, broadcast(-0.5f), e * broadcast(-2.12194440e-4f)));
  Vec r = fma(e, broadcast(0.693359375f), f + low);
  const Vec infinity = broadcast(__builtin_inff());
  r = select(less(x, infinity), r, x);  // infinity and NaN as they are
  r = select(equal(x, zero()), zero() - infinity, r);
  return select(less(x, zero()), broadcast(__builtin_nanf("")), r);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
