// SPDX-License-Identifier: Apache-2.0
// exp, ln, ln(1 + t), sigmoid, tanh and erfc of float lanes, within two units in the last place, with IEEE results for
// zero, infinities and NaN; and a cheaper power of two, for the weights of a softmax.
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

// 2^t for t <= 126, by a polynomial in t - floor(t): within 8.6e-5 of the value for degree 3, 6.5e-8 for degree 6.
// 2^0 is 1; from -150 down, -infinity included, it is 0; NaN stays.
template <int kDegree>
inline Vec exp2(Vec t) {
  static_assert(kDegree == 3 || kDegree == 6);
#if defined(__AVX512F__)
  const Vec f = {_mm512_reduce_ps(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}, n = t;  // scaling takes floor(n)
#else
  t = max(broadcast(-151.0f), t);
  const Vec near = round(t), n = select(less(t, near), near - broadcast(1.0f), near), f = t - n;
#endif
  const Vec p = kDegree == 3 ? horner(f, broadcast(0.07706704f), 0.227645f, 0.69511676f, 1.0f)
                             : horner(f, broadcast(0.00021612915f), 0.0012467847f, 0.0096754516f, 0.055485282f,
                                      0.24022931f, 0.69314706f, 1.0f);
  return scale_by_power_of_two(p, n);
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

// ln(1 + t) for t in [0, 1]: twice the inverse hyperbolic tangent of z = t / (2 + t) <= 1/3, as a series.
inline Vec log_one_plus(Vec t) {
  const Vec z = t / (t + broadcast(2.0f)), z2 = z * z;
  const Vec p = horner(z2, broadcast(1.0f / 15), 1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3);
  const Vec twice = z + z;
  return fma(p * z2, twice, twice);
}

// e = e^-|x| in [0, 1] and d = 1 / (1 + e), so that no infinity meets another.
struct SigmoidTerms {
  Vec e, d;
};
inline SigmoidTerms sigmoid_terms(Vec x) {
  const Vec e = exp(zero() - magnitude(x));
  return {e, reciprocal(broadcast(1.0f) + e)};
}

// 1 / (1 + e^-x) and its derivative s (1 - s). Neither cancels.
struct SigmoidAndSlope {
  Vec value, slope;
};
inline SigmoidAndSlope sigmoid_and_slope(Vec x) {
  const SigmoidTerms t = sigmoid_terms(x);
  return {select(less(x, zero()), t.e, broadcast(1.0f)) * t.d, t.e * t.d * t.d};
}
inline Vec sigmoid(Vec x) { return sigmoid_and_slope(x).value; }

// Below 0.625 an odd polynomial (our fit, 4e-9), above (1 - e^-2x) / (1 + e^-2x).
inline Vec tanh(Vec x) {
  const Vec t = magnitude(x), z = x * x, one = broadcast(1.0f);
  const Vec p = horner(z, broadcast(-0.0057170424f), 0.020650584f, -0.053743497f, 0.13331491f, -0.33333284f);
  const Vec e = exp(broadcast(-2.0f) * t);
  const Vec large = with_sign((one - e) * reciprocal(one + e), x);
  return select(less(t, broadcast(0.625f)), fma(p * z, x, x), large);
}

// erfc(t) for t >= 0: below 1 it is 1 - t P(t^2) (our fit, 4e-8), above e^(Q(t) - t^2) (2e-8).
inline Vec erfc_positive(Vec t) {
  const Vec z = t * t;
  const Vec p =
      horner(z, broadcast(-0.00056314224f), 0.0049175513f, -0.026711311f, 0.1128018f, -0.37612325f, 1.1283791f);
  const Vec q =
      horner(t, broadcast(-0.0011504209f), 0.014778111f, -0.08863415f, 0.34551102f, -1.1174384f, -0.002671706f);
  return select(less(t, broadcast(1.0f)), fnma(t, p, broadcast(1.0f)), exp(q - z));
}

// The normal distribution function, erfc(-x / sqrt 2) / 2.
inline Vec normal_cdf(Vec x) {
  const Vec half = broadcast(0.5f) * erfc_positive(magnitude(x) * broadcast(0.707106781f));
  return select(less(x, zero()), half, broadcast(1.0f) - half);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
