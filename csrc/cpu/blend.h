// SPDX-License-Identifier: Apache-2.0
// The passes of ops/blend.h; `weights(b)` gives the two numbers of a sample, computed in double because they cost
// nothing beside its elements.
#pragma once
#include "../ops/blend.h"
#include "samples.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct Weights {
  double x, f;
};

template <class T, class Of>
void blend(const Blend& a, const Of& weights) {
  const bool past = past_cache<T>(a.y, a.batch, a.size);
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    const Weights w = weights(b);
    const Vec u = broadcast(static_cast<float>(w.x)), v = broadcast(static_cast<float>(w.f));
    const T* x = sample<T>(a.x, b) + begin;
    const T* f = a.f.data ? sample<T>(a.f, b) + begin : nullptr;
    T* y = sample<T>(a.y, b) + begin;
    const auto value = [&](int64_t i, int k) {
      const Vec r = u * load(x + i, k);
      return f ? fma(v, load(f + i, k), r) : r;
    };
    for_lanes(
        end - begin, [&](int64_t i) { put(y + i, value(i, Vec::lanes), past); },
        [&](int64_t i, int k) { store(y + i, value(i, k), k); });
    if (past) stream_fence();
  });
}

template <class T, class Of>
void blend_backward(const BlendBackward& a, const Of& weights) {
  const bool past =
      (!a.dx.data || past_cache<T>(a.dx, a.batch, a.size)) && (!a.df.data || past_cache<T>(a.df, a.batch, a.size));
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    const Weights w = weights(b);
    const Vec u = broadcast(static_cast<float>(w.x)), v = broadcast(static_cast<float>(w.f));
    const T* dy = sample<T>(a.dy, b) + begin;
    T* dx = a.dx.data ? sample<T>(a.dx, b) + begin : nullptr;
    T* df = a.df.data ? sample<T>(a.df, b) + begin : nullptr;
    for_lanes(
        end - begin,
        [&](int64_t i) {
          const Vec g = load(dy + i);
          if (dx) put(dx + i, u * g, past);
          if (df) put(df + i, v * g, past);
        },
        [&](int64_t i, int k) {
          const Vec g = load(dy + i, k);
          if (dx) store(dx + i, u * g, k);
          if (df) store(df + i, v * g, k);
        });
    if (past) stream_fence();
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
