// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/gated_residual.h.
#pragma once
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
