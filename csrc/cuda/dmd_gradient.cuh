// SPDX-License-Identifier: Apache-2.0
// Formula: ops/dmd_gradient.h.
#pragma once
#include "../ops/dmd_gradient.h"
#include "sample_sums.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const DmdGradientArgs& a) {
  const char* op = "dmd_gradient";
  const bool vectors = vectorised_samples(a.dtype, a.size, a.x, a.fake, a.real, a.y);
  LaunchPlan p;
  add_sum_blocks(p, op, flat_kernel(a.dtype, vectors, 0), a.batch, a.size);
  p.add(op, flat_kernel(a.dtype, vectors, 1), a.batch * flat_blocks(a.dtype, vectors, a.size), kFlatThreads);
  return p;
}
inline const DmdGradientArgs& parameters(const DmdGradientArgs& a) { return a; }

template <class T>
constexpr float kLargest = 0.0f;
template <>
constexpr float kLargest<float> = 3.4028234663852886e38f;
template <>
constexpr float kLargest<bf16> = 3.3895313892515355e38f;
template <>
constexpr float kLargest<f16> = 65504.0f;

template <class T, int V>
PRESTISSIMO_DEVICE void dmd_gradient_sums(const DmdGradientArgs& a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  block_sums<1, V>(
      a.partial, a.size,
      [&](int64_t b, int64_t i, float(&sums)[1]) {
        float x[V], real[V];
        load(sample<T>(a.x, b) + i, x);
        load(sample<T>(a.real, b) + i, real);
#pragma unroll
        for (int j = 0; j < V; ++j) sums[0] += fabsf(x[j] - real[j]);
      },
      scratch);
}

template <class T, int V>
PRESTISSIMO_DEVICE void dmd_gradient_body(const DmdGradientArgs& a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  const FlatShare<V> share(a.size);
  float sums[1];
  add_blocks(a.partial, share.b, a.size, sums, scratch);
  const float mean = sums[0] / static_cast<float>(a.size) + a.eps;
  const T *fake = sample<T>(a.fake, share.b), *real = sample<T>(a.real, share.b);
  T* y = sample<T>(a.y, share.b);
  float f[kFlatVectors][V], r[kFlatVectors][V];
  share.for_each([&](int k, int64_t i) {
    load(fake + i, f[k]);
    load(real + i, r[k]);
  });
  share.for_each([&](int k, int64_t i) {
    float v[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float q = (f[k][j] - r[k][j]) / mean;
      v[j] = q != q ? 0.0f : fmaxf(fminf(q, kLargest<T>), -kLargest<T>);
    }
    store_global(y + i, v);
  });
}

#define DMD_GRADIENT_KERNEL(suffix, T, V, ...)                                \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                  \
      dmd_gradient_sums_##suffix(const __grid_constant__ DmdGradientArgs a) { \
    dmd_gradient_sums<T, V>(a);                                               \
  }                                                                           \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                  \
      dmd_gradient_##suffix(const __grid_constant__ DmdGradientArgs a) {      \
    dmd_gradient_body<T, V>(a);                                               \
  }
FLAT_TYPES(DMD_GRADIENT_KERNEL)

#define DMD_GRADIENT_KERNELS(X) FLAT_TYPES(FLAT_NAME, X, dmd_gradient_sums) FLAT_TYPES(FLAT_NAME, X, dmd_gradient)
#define DMD_GRADIENT_PLANS(X) X(dmd_gradient, DmdGradientArgs)

}  // namespace prestissimo::cuda
