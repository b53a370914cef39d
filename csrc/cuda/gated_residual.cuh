// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/gated_residual.h.
#pragma once
#include "column_sums.cuh"
#include "gate.cuh"

namespace prestissimo::cuda {

// In the order of GATED_RESIDUAL_KERNELS: forward and backward for each pair of types, then the sums.
inline LaunchPlan plan(const GatedResidualArgs& a) {
  const int64_t n = 16 / item_size(a.branch_dtype);
  const bool vectorised = a.channels % n == 0 && aligned_rows(a.x, n) && aligned_rows(a.branch, n) &&
                          aligned_rows(a.gate, n) && aligned_rows(a.y, n);
  LaunchPlan p;
  add_elementwise(p, "gated_residual", stream_index(a.dtype, a.branch_dtype, vectorised), a.batch * a.time, a.channels,
                  vectorised ? n : 1);
  return p;
}

inline LaunchPlan plan(const GatedResidualBackwardArgs& a) {
  const char* op = "gated_residual_backward";
  check_channels(op, a.channels);
  const int64_t n = 16 / item_size(a.branch_dtype);
  const bool vectorised = a.channels % n == 0 && aligned_rows(a.dy, n) && aligned_rows(a.branch, n) &&
                          aligned_rows(a.gate, n) && aligned_rows(a.dbranch, n);
  LaunchPlan p;
  p.add(op, kStreams + stream_index(a.dtype, a.branch_dtype, vectorised),
        ceil_div(a.channels, kWarpSize * (vectorised ? n : 1)) * a.batch * time_blocks(a.time), kColumnThreads);
  if (a.dgate.data)
    p.add(op, 2 * kStreams + type_index(a.dtype), ceil_div(a.channels, kWarpSize) * a.batch, kColumnThreads);
  return p;
}

inline const GatedResidualArgs& parameters(const GatedResidualArgs& a) { return a; }
inline const GatedResidualBackwardArgs& parameters(const GatedResidualBackwardArgs& a) { return a; }

template <class T, class B, int V>
PRESTISSIMO_DEVICE void gated_residual_rows(const GatedResidualArgs& a) {
  const RowPlace at(a.channels, a.time, V);
  if (at.c >= static_cast<int>(a.channels)) return;
  float x[V], branch[V], g[V];
  load(row_of<T>(a.x, at.b, at.t) + at.c, x);
  load(row_of<B>(a.branch, at.b, at.t) + at.c, branch);
  load_gate(row_of<T>(a.gate, at.b, 0) + at.c, a.form, g);
#pragma unroll
  for (int i = 0; i < V; ++i) x[i] = __fmaf_rn(branch[i], g[i], x[i]);
  store(row_of<T>(a.y, at.b, at.t) + at.c, x);
}

// dbranch, and the sums of dy * branch over each block of rows.
template <class T, class B, int V>
PRESTISSIMO_DEVICE void gated_residual_backward_columns(const GatedResidualBackwardArgs& a) {
  SHARED_ARRAY(float, tile, (kColumnGroups * LaneRow<V>::kFloats));
  const int C = static_cast<int>(a.channels);
  const ColumnPlace<V> at(C, a.time);
  float sum[V] = {};
  if (at.c < C) {
    float g[V];
    load_gate(row_of<T>(a.gate, at.b, 0) + at.c, a.form, g);
    for (int64_t t = at.begin; t < at.end; t += kColumnGroups) {
      float d[V], branch[V];
      load(row_of<T>(a.dy, at.b, t) + at.c, d);
      if (a.dgate.data) {
        load(row_of<B>(a.branch, at.b, t) + at.c, branch);
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] = __fmaf_rn(d[i], branch[i], sum[i]);
      }
      if (a.dbranch.data) {
#pragma unroll
        for (int i = 0; i < V; ++i) d[i] *= g[i];
        store(row_of<B>(a.dbranch, at.b, t) + at.c, d);
      }
    }
  }
  if (a.dgate.data) add_groups(at, sum, tile, a.partial + (at.b * blocks_of(a.time) + at.block) * C + at.first, C);
}

template <class T>
PRESTISSIMO_DEVICE void gated_residual_backward_sums(const GatedResidualBackwardArgs& a) {
  SHARED_ARRAY(float, tile, kColumnThreads);
  const int C = static_cast<int>(a.channels);
  const uint32_t tiles = (C + kWarpSize - 1) / kWarpSize;
  const int64_t b = blockIdx.x / tiles, blocks = blocks_of(a.time);
  const int c = static_cast<int>(blockIdx.x % tiles) * kWarpSize + threadIdx.x % kWarpSize;
  const float sum = add_rows(a.partial + b * blocks * C, blocks, C, c, tile);
  if (threadIdx.x >= kWarpSize || c >= C) return;
  row_of<T>(a.dgate, b, 0)[c] = from_float<T>(close_gate(sum, row_of<T>(a.gate, b, 0)[c], a.form));
}

// One block a multiprocessor: else ptxas saves registers on sm_100 until it spills.
#define GATED_RESIDUAL_ROWS(suffix, T, B, V, ...)                                                     \
  extern "C" __global__ void __launch_bounds__(kElementwiseThreads)                                   \
      gated_residual_rows_##suffix(const __grid_constant__ GatedResidualArgs a) {                     \
    gated_residual_rows<T, B, V>(a);                                                                  \
  }                                                                                                   \
  extern "C" __global__ void __launch_bounds__(kColumnThreads, 1)                                     \
      gated_residual_backward_columns_##suffix(const __grid_constant__ GatedResidualBackwardArgs a) { \
    gated_residual_backward_columns<T, B, V>(a);                                                      \
  }
#define GATED_RESIDUAL_SUMS(suffix, T, V, ...)                                                     \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                                     \
      gated_residual_backward_sums_##suffix(const __grid_constant__ GatedResidualBackwardArgs a) { \
    gated_residual_backward_sums<T>(a);                                                            \
  }
FOR_STREAMS(GATED_RESIDUAL_ROWS)
FOR_TYPES(GATED_RESIDUAL_SUMS)

#define GATED_RESIDUAL_STREAM(suffix, T, B, V, X, phase) X(phase##_##suffix)
#define GATED_RESIDUAL_TYPE(suffix, T, V, X, phase) X(phase##_##suffix)
#define GATED_RESIDUAL_KERNELS(X)                                        \
  FOR_STREAMS(GATED_RESIDUAL_STREAM, X, gated_residual_rows)             \
  FOR_STREAMS(GATED_RESIDUAL_STREAM, X, gated_residual_backward_columns) \
  FOR_TYPES(GATED_RESIDUAL_TYPE, X, gated_residual_backward_sums)
#define GATED_RESIDUAL_PLANS(X) \
  X(gated_residual, GatedResidualArgs) X(gated_residual_backward, GatedResidualBackwardArgs)

}  // namespace prestissimo::cuda
