// SPDX-License-Identifier: Apache-2.0
// sigmoid, erfc and their kin; the polynomials are those of cpu/math.h.
#pragma once
#include "ptx.cuh"

namespace prestissimo::cuda {

template <int N>
PRESTISSIMO_DEVICE float polynomial(float x, const float (&c)[N]) {
  float p = c[N - 1];
#pragma unroll
  for (int i = N - 2; i >= 0; --i) p = __fmaf_rn(p, x, c[i]);
  return p;
}

// Within two units in the last place by arithmetic alone. expf ends in ex2.approx, whose error of up to 2^-22 may have
// one sign throughout: where many results are summed it does not average out.
PRESTISSIMO_DEVICE float exponential(float x) {
  constexpr float p[] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,
                         8.3334519073e-3f, 1.3981999507e-3f, 1.98756915e-4f};
  const float c = x > 89.0f ? 89.0f : x < -104.0f ? -104.0f : x;  // a NaN stays
  const float n = rintf(c * 1.44269504f);
  const float r = __fmaf_rn(n, 2.12194440e-4f, __fmaf_rn(n, -0.693359375f, c));
  const float e = __fmaf_rn(polynomial(r, p), r * r, r) + 1.0f;
  const int k = static_cast<int>(n), half = k / 2;  // 2^k in two factors: it may lie beyond the exponents
  return e * __int_as_float(half + 127 << 23) * __int_as_float(k - half + 127 << 23);
}

// s = 1 / (1 + e^-x) and its derivative s (1 - s), neither of which cancels.
struct SigmoidAndSlope {
  float value, slope;
};
PRESTISSIMO_DEVICE SigmoidAndSlope sigmoid_and_slope(float x) {
  const float e = expf(-fabsf(x)), d = 1.0f / (1.0f + e);
  return {(x < 0.0f ? e : 1.0f) * d, e * d * d};
}
PRESTISSIMO_DEVICE float sigmoid(float x) { return sigmoid_and_slope(x).value; }

// erfc(t) for t >= 0.
PRESTISSIMO_DEVICE float erfc_positive(float t) {
  constexpr float p[] = {1.1283791f, -0.37612325f, 0.1128018f, -0.026711311f, 0.0049175513f, -0.00056314224f};
  constexpr float q[] = {-0.002671706f, -1.1174384f, 0.34551102f, -0.08863415f, 0.014778111f, -0.0011504209f};
  return t < 1.0f ? 1.0f - t * polynomial(t * t, p) : expf(polynomial(t, q) - t * t);
}

// The normal distribution function, erfc(-x / sqrt 2) / 2.
PRESTISSIMO_DEVICE float normal_cdf(float x) {
  const float half = 0.5f * erfc_positive(fabsf(x) * 0.707106781f);
  return x < 0.0f ? half : 1.0f - half;
}

}  // namespace prestissimo::cuda
