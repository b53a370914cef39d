// SPDX-License-Identifier: Apache-2.0
// Sine, cosine and angle of float lanes. Absolute errors below 1.5e-7 (sine and cosine, |x| up to 10^5) and 4e-7.
#pragma once
#include "math.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// x = q pi/2 + r with |r| <= pi/4, pi/2 in three parts of which q times the first two is exact for |q| < 2^13.
// Polynomials on the quarter are Cephes'. NaN and infinities give NaN.
inline void sin_cos(Vec x, Vec& sine, Vec& cosine) {
  const Vec q = round(x * broadcast(0.636619772f));
  const Vec r =
      fnma(q, broadcast(7.54978942e-8f), fnma(q, broadcast(4.83751297e-4f), fnma(q, broadcast(1.5703125f), x)));
  const Vec r2 = r * r;
  const Vec s = fma(horner(r2, broadcast(-1.9515295891e-4f), 8.3321608736e-3f, -1.6666654611e-1f), r2 * r, r);
  const Vec c = fma(horner(r2, broadcast(2.443315711809948e-5f), -1.388731625493765e-3f, 4.166664568298827e-2f),
                    r2 * r2, fma(r2, broadcast(-0.5f), broadcast(1.0f)));
  // q mod 4 in -2 ... 2 by what rounding q/4 leaves: odd quarters exchange sine and cosine
  const Vec m = fnma(round(q * broadcast(0.25f)), broadcast(4.0f), q);
  const Vec size = magnitude(m);
  const Mask odd = equal(size, broadcast(1.0f)), half = equal(size, broadcast(2.0f));
  const Vec one = broadcast(1.0f), minus_one = broadcast(-1.0f);
  sine = select(odd, c * m, select(half, zero() - s, s));
  cosine = select(odd, s, c) * select(half, minus_one, select(odd, zero() - m, one));
}

// In [-pi, pi]; angle(0, 0) is 0. atan t = t + t^3 P(t^2) for t in [0, 1], P fitted to the least relative error.
inline Vec angle(Vec re, Vec im) {
  const Vec x = magnitude(re), y = magnitude(im);
  const Vec large = max(y, x), small = min(x, y);  // in these orders a NaN of either stays
  const Vec t = small / max(broadcast(1e-37f), large), t2 = t * t;
  const Vec p =
      horner(t2, broadcast(0.002849888987839222f), -0.016068626195192337f, 0.042691513895988464f, -0.07504294067621231f,
             0.10640934109687805f, -0.14203643798828125f, 0.1999261975288391f, -0.3333307206630707f);
  Vec a = fma(p, t2 * t, t);
  a = select(less(x, y), broadcast(1.57079633f) - a, a);
  a = select(less(re, zero()), broadcast(3.14159265f) - a, a);
  return select(less(im, zero()), zero() - a, a);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
