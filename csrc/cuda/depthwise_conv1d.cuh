// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/depthwise_conv1d.h. One thread makes one vector of channels of one step; neighbouring steps read the
// same rows again from the cache.
#pragma once
#include "../ops/depthwise_conv1d.h"
#include "column_sums.cuh"

namespace prestissimo::cuda {

// In the order of DEPTHWISE_CONV1D_KERNELS: steps and weight columns for each vector width, then the sums by type.
inline LaunchPlan plan(const DepthwiseConv1dArgs& a) {
  const int64_t n = 16 / item_size(a.dtype);
  const bool vectorised = a.channels % n == 0 && aligned_rows(a.in, n) && aligned_rows(a.out, n) && aligned_16(a.bias);
  LaunchPlan p;
  add_elementwise(p, "depthwise_conv1d", vector_index(a.dtype, vectorised), a.batch * a.time, a.channels,
                  vectorised ? n : 1);
  return p;
}
inline LaunchPlan plan(const DepthwiseConv1dWeightArgs& a) {
  const char* op = "depthwise_conv1d_backward";
  check_channels(op, a.channels);
  const int64_t n = 16 / item_size(a.dtype);
  const bool vectorised = a.channels % n == 0 && aligned_rows(a.dy, n) && aligned_rows(a.x, n);
  LaunchPlan p;
  p.add(op, 6 + vector_index(a.dtype, vectorised),
        ceil_div(a.channels, kWarpSize * (vectorised ? n : 1)) * a.batch * time_blocks(a.time), kColumnThreads);
  p.add(op, 12 + type_index(a.dtype), ceil_div(a.channels, kWarpSize) * (a.taps + 1), kColumnThreads);
  return p;
}
inline const DepthwiseConv1dArgs& parameters(const DepthwiseConv1dArgs& a) { return a; }
inline const DepthwiseConv1dWeightArgs& parameters(const DepthwiseConv1dWeightArgs& a) { return a; }

template <class T, int V>
PRESTISSIMO_DEVICE void depthwise_conv1d_steps(const DepthwiseConv1dArgs& a) {
  const RowPlace at(a.channels, a.time, V);
  if (at.c >= static_cast<int>(a.channels)) return;
  const T* weight = static_cast<const T*>(a.weight) + at.c * a.taps;
  float y[V] = {};
  add(y, static_cast<const T*>(a.bias), at.c);
  for (int k = 0; k < static_cast<int>(a.taps); ++k) {
    const int64_t t = at.t + a.offset + k * a.step;
    if (t < 0 || t >= a.time_in) continue;
    float x[V];
    load(row_of<T>(a.in, at.b, t) + at.c, x);
#pragma unroll
    for (int i = 0; i < V; ++i) y[i] = __fmaf_rn(x[i], to_float(weight[i * a.taps + k]), y[i]);
  }
  store(row_of<T>(a.out, at.b, at.t) + at.c, y);
}

// Sums over a block of steps: of dy x for each tap, of dy.
template <class T, int V>
PRESTISSIMO_DEVICE void depthwise_conv1d_columns(const DepthwiseConv1dWeightArgs& a) {
  SHARED_ARRAY(float, tile, (kColumnGroups * LaneRow<V>::kFloats));
  const int C = static_cast<int>(a.channels);
  const ColumnPlace<V> at(C, a.time);
  float* const out = a.partial + (at.b * blocks_of(a.time) + at.block) * C + at.first;
  const int64_t plane = a.batch * blocks_of(a.time) * C;
  // tap by tap: the rows of a block stay in the cache, and no thread holds more than one vector of sums
  for (int k = 0; k <= static_cast<int>(a.taps); ++k) {
    float sum[V] = {};
    if (at.c < C) {
      for (int64_t t = at.begin; t < at.end; t += kColumnGroups) {
        const int64_t meets = t + a.offset + k * a.step;
        const bool bias = k == static_cast<int>(a.taps);
        if (!bias && (meets < 0 || meets >= a.time_in)) continue;
        float d[V], x[V];
        load(row_of<T>(a.dy, at.b, t) + at.c, d);
        if (!bias) load(row_of<T>(a.x, at.b, meets) + at.c, x);
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] = bias ? sum[i] + d[i] : __fmaf_rn(d[i], x[i], sum[i]);
      }
    }
    add_groups(at, sum, tile, out + k * plane, C);
  }
}

template <class T>
PRESTISSIMO_DEVICE void depthwise_conv1d_sums(const DepthwiseConv1dWeightArgs& a) {
  SHARED_ARRAY(float, tile, kColumnThreads);
  const int C = static_cast<int>(a.channels);
  const uint32_t tiles = (C + kWarpSize - 1) / kWarpSize;
  const int k = static_cast<int>(blockIdx.x / tiles), taps = static_cast<int>(a.taps);
  const int c = static_cast<int>(blockIdx.x % tiles) * kWarpSize + threadIdx.x % kWarpSize;
  const int64_t rows = a.batch * blocks_of(a.time);
  const float sum = add_rows(a.partial + k * rows * C, rows, C, c, tile);
  if (threadIdx.x >= kWarpSize || c >= C) return;
  if (k < taps)
    static_cast<T*>(a.dweight)[static_cast<int64_t>(c) * taps + k] = from_float<T>(sum);
  else
    static_cast<T*>(a.dbias)[c] = from_float<T>(sum);
}

// One block a multiprocessor: else ptxas saves registers on sm_100 until it spills.
#define DEPTHWISE_CONV1D_STEPS(suffix, T, V, ...)                                              \
  extern "C" __global__ void __launch_bounds__(kElementwiseThreads, 1)                         \
      depthwise_conv1d_steps_##suffix(const __grid_constant__ DepthwiseConv1dArgs a) {         \
    depthwise_conv1d_steps<T, V>(a);                                                           \
  }                                                                                            \
  extern "C" __global__ void __launch_bounds__(kColumnThreads, 1)                              \
      depthwise_conv1d_columns_##suffix(const __grid_constant__ DepthwiseConv1dWeightArgs a) { \
    depthwise_conv1d_columns<T, V>(a);                                                         \
  }
#define DEPTHWISE_CONV1D_SUMS(suffix, T, V, ...)                                            \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                              \
      depthwise_conv1d_sums_##suffix(const __grid_constant__ DepthwiseConv1dWeightArgs a) { \
    depthwise_conv1d_sums<T>(a);                                                            \
  }
FOR_VECTORS(DEPTHWISE_CONV1D_STEPS)
FOR_TYPES(DEPTHWISE_CONV1D_SUMS)

#define DEPTHWISE_CONV1D_NAME(suffix, T, V, X, phase) X(depthwise_conv1d_##phase##_##suffix)
#define DEPTHWISE_CONV1D_KERNELS(X)              \
  FOR_VECTORS(DEPTHWISE_CONV1D_NAME, X, steps)   \
  FOR_VECTORS(DEPTHWISE_CONV1D_NAME, X, columns) \
  FOR_TYPES(DEPTHWISE_CONV1D_NAME, X, sums)
#define DEPTHWISE_CONV1D_PLANS(X) \
  X(depthwise_conv1d, DepthwiseConv1dArgs) X(depthwise_conv1d_weight, DepthwiseConv1dWeightArgs)

}  // namespace prestissimo::cuda
