// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/hidden_variance.h. A block a row, then a block a sample.
#pragma once
#include "../ops/hidden_variance.h"
#include "sample_moments.cuh"

namespace prestissimo::cuda {

// In the order of HIDDEN_VARIANCE_KERNELS; the last has no type.
enum HiddenVariancePhase : int { kVarianceRows, kVarianceBackwardRows, kVarianceSamples };

inline LaunchPlan plan(const HiddenVarianceArgs& a) {
  const char* op = "hidden_variance";
  check_channels(op, a.channels);
  const int64_t n = 16 / item_size(a.dtype);
  const bool vectors = a.channels % n == 0 && aligned_rows(a.x, n);
  LaunchPlan p;
  p.add(op, kVarianceRows * 6 + vector_index(a.dtype, vectors), a.batch * a.time,
        row_threads(a.channels, vectors ? n : 1));
  p.add(op, kVarianceSamples * 6, a.batch, kSampleThreads);
  return p;
}
inline LaunchPlan plan(const HiddenVarianceBackwardArgs& a) {
  const int64_t n = 16 / item_size(a.dtype);
  const bool vectors = a.channels % n == 0 && aligned_rows(a.x, n) && aligned_rows(a.dx, n);
  LaunchPlan p;
  add_elementwise(p, "hidden_variance_backward", kVarianceBackwardRows * 6 + vector_index(a.dtype, vectors),
                  a.batch * a.time, a.channels, vectors ? n : 1);
  return p;
}
inline const HiddenVarianceArgs& parameters(const HiddenVarianceArgs& a) { return a; }
inline const HiddenVarianceBackwardArgs& parameters(const HiddenVarianceBackwardArgs& a) { return a; }

template <class T, int V>
PRESTISSIMO_DEVICE void hidden_variance_moments(const HiddenVarianceArgs& a) {
  SHARED_ARRAY(float, scratch, 3 * kMaxWarps);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.time), t = blockIdx.x % static_cast<uint32_t>(a.time);
  const int C = static_cast<int>(a.channels);
  const HeldRow<T, V, kHeld<V>> x(row_of<T>(a.x, b, t), C);
  row_moments(x, C, scratch, a.partial + 2 * static_cast<int64_t>(blockIdx.x));
}

template <class T, int V>
PRESTISSIMO_DEVICE void hidden_variance_backward_rows(const HiddenVarianceBackwardArgs& a) {
  const RowPlace at(a.channels, a.time, V);
  if (at.c >= a.channels) return;
  const float mean = a.mean[at.b], by = 2.0f * a.dvariance[at.b] / static_cast<float>(a.time * a.channels);
  float v[V];
  load(row_of<T>(a.x, at.b, at.t) + at.c, v);
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = (v[i] - mean) * by;
  store(row_of<T>(a.dx, at.b, at.t) + at.c, v);
}

#define HIDDEN_VARIANCE(suffix, T, V, ...)                                                           \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                                       \
      hidden_variance_moments_##suffix(const __grid_constant__ HiddenVarianceArgs a) {               \
    hidden_variance_moments<T, V>(a);                                                                \
  }                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kElementwiseThreads)                                  \
      hidden_variance_backward_rows_##suffix(const __grid_constant__ HiddenVarianceBackwardArgs a) { \
    hidden_variance_backward_rows<T, V>(a);                                                          \
  }
FOR_VECTORS(HIDDEN_VARIANCE)
extern "C" __global__ void __launch_bounds__(kSampleThreads)
    hidden_variance_samples(const __grid_constant__ HiddenVarianceArgs a) {
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  const SampleMoments s = sample_moments(a.partial + 2 * blockIdx.x * a.time, a.time, a.channels, scratch);
  if (threadIdx.x > 0) return;
  a.mean[blockIdx.x] = s.mean;
  a.variance[blockIdx.x] = s.variance;
}

#define HIDDEN_VARIANCE_NAME(suffix, T, V, X, phase) X(phase##_##suffix)
#define HIDDEN_VARIANCE_KERNELS(X)                                    \
  FOR_VECTORS(HIDDEN_VARIANCE_NAME, X, hidden_variance_moments)       \
  FOR_VECTORS(HIDDEN_VARIANCE_NAME, X, hidden_variance_backward_rows) \
  X(hidden_variance_samples)
#define HIDDEN_VARIANCE_PLANS(X)         \
  X(hidden_variance, HiddenVarianceArgs) \
  X(hidden_variance_backward, HiddenVarianceBackwardArgs)

}  // namespace prestissimo::cuda
