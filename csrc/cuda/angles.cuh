// SPDX-License-Identifier: Apache-2.0
// Sine, cosine and angle by the formulas of cpu/angles.h: CUDA's own reduce large arguments through local memory.
#pragma once
#include "ptx.cuh"

namespace prestissimo::cuda {

// On [-pi/4, pi/4].
PRESTISSIMO_DEVICE void sin_cos_quarter(float r, float& sine, float& cosine) {
  const float r2 = r * r;
  const float s = __fmaf_rn(__fmaf_rn(-1.9515295891e-4f, r2, 8.3321608736e-3f), r2, -1.6666654611e-1f);
  const float c = __fmaf_rn(__fmaf_rn(2.443315711809948e-5f, r2, -1.388731625493765e-3f), r2, 4.166664568298827e-2f);
  sine = __fmaf_rn(s, r2 * r, r);
  cosine = __fmaf_rn(c, r2 * r2, __fmaf_rn(r2, -0.5f, 1.0f));
}

PRESTISSIMO_DEVICE void turn_quarters(int quarters, float& sine, float& cosine) {
  const float s = quarters & 1 ? cosine : sine, c = quarters & 1 ? sine : cosine;
  sine = quarters & 2 ? -s : s;
  cosine = (quarters + 1) & 2 ? -c : c;
}

// pi/2 in three parts of which q times the first two is exact for |q| < 2^13.
PRESTISSIMO_DEVICE void sin_cos(float x, float& sine, float& cosine) {
  const float q = rintf(x * 0.636619772f);
  const float r = __fmaf_rn(q, -7.54978942e-8f, __fmaf_rn(q, -4.83751297e-4f, __fmaf_rn(q, -1.5703125f, x)));
  sin_cos_quarter(r, sine, cosine);
  turn_quarters(static_cast<int>(q), sine, cosine);
}

// (cos, sin) of 2 pi k / n, n a power of two: k / n and its distance from a quarter are exact.
PRESTISSIMO_DEVICE float2 unit_root(int k, float inverse_n) {
  const float turns = static_cast<float>(k) * inverse_n, q = rintf(4.0f * turns);
  float2 v;
  sin_cos_quarter((turns - 0.25f * q) * 6.28318531f, v.y, v.x);
  turn_quarters(static_cast<int>(q), v.y, v.x);
  return v;
}

// In [-pi, pi]; angle(0, 0) is 0.
PRESTISSIMO_DEVICE float angle(float re, float im) {
  const float x = fabsf(re), y = fabsf(im);
  const bool steep = x < y;  // fminf and fmaxf would drop a NaN; these choices keep one of either
  const float large = steep ? y : x, small = steep ? x : y;
  const float t = small / (large < 1e-37f ? 1e-37f : large), t2 = t * t;
  float p = __fmaf_rn(0.002849888987839222f, t2, -0.016068626195192337f);
  p = __fmaf_rn(p, t2, 0.042691513895988464f);
  p = __fmaf_rn(p, t2, -0.07504294067621231f);
  p = __fmaf_rn(p, t2, 0.10640934109687805f);
  p = __fmaf_rn(p, t2, -0.14203643798828125f);
  p = __fmaf_rn(p, t2, 0.1999261975288391f);
  p = __fmaf_rn(p, t2, -0.3333307206630707f);
  float a = __fmaf_rn(p, t2 * t, t);
  a = steep ? 1.57079633f - a : a;
  a = re < 0.0f ? 3.14159265f - a : a;
  return im < 0.0f ? -a : a;
}

}  // namespace prestissimo::cuda
