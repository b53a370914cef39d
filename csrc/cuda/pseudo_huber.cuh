// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/pseudo_huber.h.
#pragma once
#include "../ops/pseudo_huber.h"
#include "sample_sums.cuh"

namespace prestissimo::cuda {

// In the order of PSEUDO_HUBER_KERNELS: sums and backward for each dtype, then the one that ends the sums.
constexpr int kHuberLoss = 12;

inline LaunchPlan plan(const PseudoHuberArgs& a) {
  const char* op = "pseudo_huber";
  LaunchPlan p;
  add_sum_blocks(p, op, flat_kernel(a.dtype, vectorised_samples(a.dtype, a.size, a.x, a.y), 0), a.batch, a.size);
  p.add(op, kHuberLoss, a.batch, kFlatThreads);
  return p;
}
inline LaunchPlan plan(const PseudoHuberBackwardArgs& a) {
  const bool vectors = vectorised_samples(a.dtype, a.size, a.x, a.y, a.dx, a.dy);
  LaunchPlan p;
  p.add("pseudo_huber_backward", flat_kernel(a.dtype, vectors, 1), a.batch * flat_blocks(a.dtype, vectors, a.size),
        kFlatThreads);
  return p;
}
inline const PseudoHuberArgs& parameters(const PseudoHuberArgs& a) { return a; }
inline const PseudoHuberBackwardArgs& parameters(const PseudoHuberBackwardArgs& a) { return a; }

template <class T, int V>
PRESTISSIMO_DEVICE void pseudo_huber_sums(const PseudoHuberArgs& a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  block_sums<1, V>(
      a.partial, a.size,
      [&](int64_t b, int64_t i, float(&sums)[1]) {
        float x[V], y[V];
        load(sample<T>(a.x, b) + i, x);
        load(sample<T>(a.y, b) + i, y);
#pragma unroll
        for (int j = 0; j < V; ++j) sums[0] = fmaf(x[j] - y[j], x[j] - y[j], sums[0]);
      },
      scratch);
}

extern "C" __global__ void __launch_bounds__(kFlatThreads)
    pseudo_huber_loss(const __grid_constant__ PseudoHuberArgs a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  float sums[1];
  add_blocks(a.partial, blockIdx.x, a.size, sums, scratch);
  if (threadIdx.x > 0) return;
  const float c = static_cast<float>(a.c), root = sqrtf(fmaf(c, c, sums[0]));
  // infinite differences make an infinite loss, not inf / inf
  const bool direct = !(root < 3e38f) || root == 0.0f;
  a.loss[blockIdx.x] = direct ? root - c : sums[0] / (root + c);
}

template <class T, int V>
PRESTISSIMO_DEVICE void pseudo_huber_backward(const PseudoHuberBackwardArgs& a) {
  const FlatShare<V> share(a.size);
  const float factor = a.dloss[share.b] / (a.loss[share.b] + static_cast<float>(a.c));
  const T *x = sample<T>(a.x, share.b), *y = sample<T>(a.y, share.b);
  float g[kFlatVectors][V];
  share.for_each([&](int k, int64_t i) {
    float u[V], v[V];
    load(x + i, u);
    load(y + i, v);
#pragma unroll
    for (int j = 0; j < V; ++j) g[k][j] = factor * (u[j] - v[j]);
  });
  if (a.dx.data) share.for_each([&](int k, int64_t i) { store_global(sample<T>(a.dx, share.b) + i, g[k]); });
  if (a.dy.data)
    share.for_each([&](int k, int64_t i) {
#pragma unroll
      for (int j = 0; j < V; ++j) g[k][j] = -g[k][j];
      store_global(sample<T>(a.dy, share.b) + i, g[k]);
    });
}

#define PSEUDO_HUBER_KERNEL(suffix, T, V, ...)                                            \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                              \
      pseudo_huber_sums_##suffix(const __grid_constant__ PseudoHuberArgs a) {             \
    pseudo_huber_sums<T, V>(a);                                                           \
  }                                                                                       \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                              \
      pseudo_huber_backward_##suffix(const __grid_constant__ PseudoHuberBackwardArgs a) { \
    pseudo_huber_backward<T, V>(a);                                                       \
  }
FLAT_TYPES(PSEUDO_HUBER_KERNEL)

#define PSEUDO_HUBER_KERNELS(X)               \
  FLAT_TYPES(FLAT_NAME, X, pseudo_huber_sums) \
  FLAT_TYPES(FLAT_NAME, X, pseudo_huber_backward) X(pseudo_huber_loss)
#define PSEUDO_HUBER_PLANS(X) X(pseudo_huber, PseudoHuberArgs) X(pseudo_huber_backward, PseudoHuberBackwardArgs)

}  // namespace prestissimo::cuda
