// SPDX-License-Identifier: Apache-2.0
// The snake of float lanes, for its own op and for kernels that apply it to what they read.
#pragma once
#include "angles.h"
#include "storage.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// x + sin(a x)^2 inverse. The square has period pi: a x = q pi + r with |r| <= pi/2, pi in three parts of which q times
// the first two is exact for |q| < 2^12; sin r = r P(r^2) (our fit, relative error 5e-9).
inline Vec snake_of(Vec x, Vec a, Vec inverse) {
  const Vec z = a * x, q = round(z * broadcast(0.318309886f));
  const Vec r =
      fnma(q, broadcast(1.50995788e-7f), fnma(q, broadcast(9.67502594e-4f), fnma(q, broadcast(3.140625f), z)));
  const Vec r2 = r * r;
  const Vec p = horner(r2, broadcast(2.6019030e-6f), -1.9807419e-4f, 8.3330250e-3f, -1.6666657e-1f, 1.0f);
  return fma(r2 * (p * p), inverse, x);
}

// a and 1 / (b + 1e-9) of a channel, the 1e-9 as the storage type has it (float16 has none so small).
template <class T>
inline void snake_constants(const T* alpha, const T* beta, bool log_scale, int64_t C, float* a, float* inverse) {
  const Vec epsilon = broadcast(widen(narrow<T>(1e-9f)));
  const auto lanes = [&](int64_t i, int k) {
    const Vec x = load(alpha + i, k), y = load(beta + i, k);
    store(a + i, log_scale ? exp(x) : x, k);
    store(inverse + i, broadcast(1.0f) / ((log_scale ? exp(y) : y) + epsilon), k);
  };
  for_lanes(C, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
}

// Of a row of channels, a and inverse being theirs.
template <class T>
inline void snake_row(const T* x, T* y, const float* a, const float* inverse, int64_t C) {
  const auto lanes = [&](int64_t i, int k) {
    store(y + i, snake_of(load(x + i, k), load(a + i, k), load(inverse + i, k)), k);
  };
  for_lanes(C, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
