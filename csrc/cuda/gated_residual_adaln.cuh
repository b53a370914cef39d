// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/gated_residual_adaln.h. A block makes one row of r, holds it and normalises it. Backward, a block makes
// a row of dx and dbranch; what is summed over time goes through `partial` as in adaln_modulate and gated_residual.
#pragma once
#include "../ops/gated_residual_adaln.h"
#include "adaln_rows.cuh"
#include "gate.cuh"

namespace prestissimo::cuda {

// In the order of GATED_RESIDUAL_ADALN_KERNELS: the first four for each pair of types, the sums for each type.
enum GatedResidualAdalnPhase : int {
  kResidualRows,
  kResidualBackwardRows,
  kResidualBackwardColumns,
  kResidualGateColumns,
  kResidualSums
};
inline int gated_residual_adaln_kernel(GatedResidualAdalnPhase phase, DType dtype, DType branch, bool vectorised) {
  if (phase < kResidualSums) return phase * kStreams + stream_index(dtype, branch, vectorised);
  return kResidualSums * kStreams + type_index(dtype);
}

inline bool vectorised_vectors(const AdalnModulateArgs& f, int64_t n) {
  return f.channels % n == 0 && aligned_rows(f.x, n) && aligned_rows(f.shift, n) && aligned_rows(f.scale, n) &&
         aligned_16(f.weight) && aligned_16(f.bias);
}

inline LaunchPlan plan(const GatedResidualAdalnArgs& a) {
  const char* op = "gated_residual_adaln";
  const AdalnModulateArgs& f = a.adaln;
  check_channels(op, f.channels);
  const int64_t n = 16 / item_size(a.branch_dtype);
  const bool vectors = vectorised_vectors(f, n) && aligned_rows(f.y, n) && aligned_rows(a.x, n) &&
                       aligned_rows(a.branch, n) && aligned_rows(a.gate, n);
  LaunchPlan p;
  p.add(op, gated_residual_adaln_kernel(kResidualRows, f.dtype, a.branch_dtype, vectors), f.batch * f.time,
        row_threads(f.channels, vectors ? n : 1));
  return p;
}

inline int64_t gate_sum_blocks(const GatedResidualAdalnBackwardArgs& a) {
  return a.dgate.data ? ceil_div(a.adaln.forward.channels, kWarpSize) * a.adaln.forward.batch : 0;
}

inline LaunchPlan plan(const GatedResidualAdalnBackwardArgs& a) {
  const char* op = "gated_residual_adaln_backward";
  const AdalnModulateArgs& f = a.adaln.forward;
  check_channels(op, f.channels);
  const int64_t n = 16 / item_size(a.branch_dtype);
  const bool vectors = vectorised_vectors(f, n) && aligned_rows(a.adaln.dy, n) && aligned_rows(a.adaln.dx, n) &&
                       aligned_rows(a.adaln.dshift, n) && aligned_rows(a.adaln.dscale, n) && aligned_rows(a.dr, n) &&
                       aligned_rows(a.branch, n) && aligned_rows(a.gate, n) && aligned_rows(a.dbranch, n);
  const int64_t lanes = vectors ? n : 1;
  const int64_t columns = ceil_div(f.channels, kWarpSize * lanes) * f.batch * time_blocks(f.time);
  LaunchPlan p;
  const auto add = [&](GatedResidualAdalnPhase phase, int64_t grid, uint32_t block) {
    p.add(op, gated_residual_adaln_kernel(phase, f.dtype, a.branch_dtype, vectors), grid, block);
  };
  add(kResidualBackwardRows, f.batch * f.time, row_threads(f.channels, lanes));
  if (sum_blocks(a.adaln) > 0) add(kResidualBackwardColumns, columns, kColumnThreads);
  if (a.dgate.data) add(kResidualGateColumns, columns, kColumnThreads);
  add(kResidualSums, gate_sum_blocks(a) + sum_blocks(a.adaln), kColumnThreads);
  return p;
}

inline const GatedResidualAdalnArgs& parameters(const GatedResidualAdalnArgs& a) { return a; }

// The gate's gradient is that of gated_residual whose dy is our dx; the rows of this kernel write dbranch.
struct GatedResidualAdalnBackwardParameters {
  AdalnModulateBackwardParameters adaln;
  GatedResidualBackwardArgs gate;
  RowView dr;
  RowOutput dbranch;
  uint32_t gate_sums;  // blocks of the last kernel that add the gate's sums; those behind them add the norm's
};
inline GatedResidualAdalnBackwardParameters parameters(const GatedResidualAdalnBackwardArgs& a) {
  const AdalnModulateArgs& f = a.adaln.forward;
  const RowOutput& dx = a.adaln.dx;
  return {parameters(a.adaln),
          {{dx.data, dx.batch_stride, dx.time_stride},
           a.branch,
           a.gate,
           {},
           a.dgate,
           a.gate_partial,
           f.batch,
           f.time,
           f.channels,
           a.form,
           f.dtype,
           a.branch_dtype},
          a.dr,
          a.dbranch,
          static_cast<uint32_t>(gate_sum_blocks(a))};
}

template <class T, class B, int V>
PRESTISSIMO_DEVICE void gated_residual_adaln_rows(const GatedResidualAdalnArgs& a) {
  SHARED_ARRAY(float, scratch, 3 * kMaxWarps);
  constexpr int K = kHeld<V>;
  const AdalnModulateArgs& f = a.adaln;
  const int C = static_cast<int>(f.channels);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(f.time), t = blockIdx.x % static_cast<uint32_t>(f.time);
  const T *x = row_of<T>(a.x, b, t), *gate = optional_row<T>(a.gate, b, 0);
  const B* branch = row_of<B>(a.branch, b, t);
  T* r = row_of<T>(a.r, b, t);
  HeldRow<T, V, K> row(r, 0);  // loads nothing: what it holds is made here
  for_owned<V, K>(C, [&](int k, int c) {
    float v[V], w[V], g[V];
    load(x + c, v);
    load(branch + c, w);
    if (gate) load_gate(gate + c, a.form, g);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = to_float(from_float<T>(gate ? __fmaf_rn(w[i], g[i], v[i]) : v[i] + w[i]));
    store(r + c, v);
    if (k < K)
#pragma unroll
      for (int i = 0; i < V; ++i) row.held[k][i] = v[i];
  });
  modulate_row<T>(f, row, statistics(row, C, f.norm, f.eps, scratch), b, t, row_of<B>(f.y, b, t));
}

template <class T, class B, int V>
PRESTISSIMO_DEVICE void gated_residual_adaln_backward_rows(const GatedResidualAdalnBackwardParameters& a) {
  adaln_backward_rows<T, B, V>(a.adaln, [&](int64_t b, int64_t t, int c, float(&d)[V]) {
    float v[V];
    load(row_of<T>(a.dr, b, t) + c, v);
#pragma unroll
    for (int i = 0; i < V; ++i) d[i] += v[i];
    store(row_of<T>(a.adaln.dx, b, t) + c, d);
    if (!a.dbranch.data) return;
    if (a.gate.gate.data) {
      load_gate(row_of<T>(a.gate.gate, b, 0) + c, a.gate.form, v);
#pragma unroll
      for (int i = 0; i < V; ++i) d[i] *= v[i];
    }
    store(row_of<B>(a.dbranch, b, t) + c, d);
  });
}

template <class T>
PRESTISSIMO_DEVICE void gated_residual_adaln_sums(const GatedResidualAdalnBackwardParameters& a) {
  if (blockIdx.x < a.gate_sums)
    gated_residual_backward_sums<T>(a.gate);
  else
    adaln_modulate_backward_sums<T>(a.adaln, blockIdx.x - a.gate_sums);
}

#define GATED_RESIDUAL_ADALN_STREAM(suffix, T, B, V, ...)                                                              \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                                                         \
      gated_residual_adaln_rows_##suffix(const __grid_constant__ GatedResidualAdalnArgs a) {                           \
    gated_residual_adaln_rows<T, B, V>(a);                                                                             \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                                                         \
      gated_residual_adaln_backward_rows_##suffix(const __grid_constant__ GatedResidualAdalnBackwardParameters a) {    \
    gated_residual_adaln_backward_rows<T, B, V>(a);                                                                    \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                                                         \
      gated_residual_adaln_backward_columns_##suffix(const __grid_constant__ GatedResidualAdalnBackwardParameters a) { \
    adaln_modulate_backward_columns<T, B, V>(a.adaln);                                                                 \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kColumnThreads, 1)                                                      \
      gated_residual_adaln_gate_columns_##suffix(const __grid_constant__ GatedResidualAdalnBackwardParameters a) {     \
    gated_residual_backward_columns<T, B, V>(a.gate);                                                                  \
  }
#define GATED_RESIDUAL_ADALN_TYPE(suffix, T, V, ...)                                                       \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                                             \
      gated_residual_adaln_sums_##suffix(const __grid_constant__ GatedResidualAdalnBackwardParameters a) { \
    gated_residual_adaln_sums<T>(a);                                                                       \
  }
FOR_STREAMS(GATED_RESIDUAL_ADALN_STREAM)
FOR_TYPES(GATED_RESIDUAL_ADALN_TYPE)

#define GATED_RESIDUAL_ADALN_STREAM_NAME(suffix, T, B, V, X, phase) X(phase##_##suffix)
#define GATED_RESIDUAL_ADALN_TYPE_NAME(suffix, T, V, X, phase) X(phase##_##suffix)
#define GATED_RESIDUAL_ADALN_KERNELS(X)                                                   \
  FOR_STREAMS(GATED_RESIDUAL_ADALN_STREAM_NAME, X, gated_residual_adaln_rows)             \
  FOR_STREAMS(GATED_RESIDUAL_ADALN_STREAM_NAME, X, gated_residual_adaln_backward_rows)    \
  FOR_STREAMS(GATED_RESIDUAL_ADALN_STREAM_NAME, X, gated_residual_adaln_backward_columns) \
  FOR_STREAMS(GATED_RESIDUAL_ADALN_STREAM_NAME, X, gated_residual_adaln_gate_columns)     \
  FOR_TYPES(GATED_RESIDUAL_ADALN_TYPE_NAME, X, gated_residual_adaln_sums)
#define GATED_RESIDUAL_ADALN_PLANS(X)             \
  X(gated_residual_adaln, GatedResidualAdalnArgs) \
  X(gated_residual_adaln_backward, GatedResidualAdalnBackwardArgs)

}  // namespace prestissimo::cuda
