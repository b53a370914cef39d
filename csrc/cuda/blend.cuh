// SPDX-License-Identifier: Apache-2.0
// The passes of ops/blend.h. Every thread works out the two numbers of its sample again: a few instructions, against a
// barrier or another launch.
#pragma once
#include "../ops/blend.h"
#include "samples.cuh"

namespace prestissimo::cuda {

inline bool vectorised(const Blend& a) { return vectorised_samples(a.dtype, a.size, a.x, a.f, a.y); }
inline bool vectorised(const BlendBackward& a) { return vectorised_samples(a.dtype, a.size, a.dy, a.dx, a.df); }

template <class Arrays>
LaunchPlan blend_plan(const char* op, const Arrays& a, int phase) {
  const bool vectors = vectorised(a);
  LaunchPlan p;
  p.add(op, flat_kernel(a.dtype, vectors, phase), a.batch * flat_blocks(a.dtype, vectors, a.size), kFlatThreads);
  return p;
}

struct Weights {
  float x, f;
};

// All loads ahead of the stores: the compiler may not move them there, y being possibly the memory of x.
template <class T, int V, bool kTwo, class Of>
PRESTISSIMO_DEVICE void blend(const Blend& a, Of weights) {
  const FlatShare<V> share(a.size);
  const Weights w = weights(share.b);
  const T* x = sample<T>(a.x, share.b);
  const T* f = sample<T>(a.f, share.b);
  T* y = sample<T>(a.y, share.b);
  float r[kFlatVectors][V], g[kFlatVectors][V];
  share.for_each([&](int k, int64_t i) {
    load(x + i, r[k]);
    if constexpr (kTwo) load(f + i, g[k]);
  });
  share.for_each([&](int k, int64_t i) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      r[k][j] *= w.x;
      if constexpr (kTwo) r[k][j] = fmaf(w.f, g[k][j], r[k][j]);
    }
    store_global(y + i, r[k]);
  });
}

template <class T, int V, class Of>
PRESTISSIMO_DEVICE void blend_backward(const BlendBackward& a, Of weights) {
  const FlatShare<V> share(a.size);
  const Weights w = weights(share.b);
  const T* dy = sample<T>(a.dy, share.b);
  float g[kFlatVectors][V];
  share.for_each([&](int k, int64_t i) { load(dy + i, g[k]); });
  const auto write = [&](const SamplesOut& d, float weight) {
    if (!d.data) return;
    T* out = sample<T>(d, share.b);
    share.for_each([&](int k, int64_t i) {
      float r[V];
#pragma unroll
      for (int j = 0; j < V; ++j) r[j] = weight * g[k][j];
      store_global(out + i, r);
    });
  };
  write(a.dx, w.x);
  write(a.df, w.f);
}

}  // namespace prestissimo::cuda
