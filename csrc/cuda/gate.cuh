// SPDX-License-Identifier: Apache-2.0
// The gate of a residual branch, and its gradient; formulas in ops/gated_residual.h.
#pragma once
#include "../ops/gated_residual.h"
#include "column_sums.cuh"
#include "math.cuh"

namespace prestissimo::cuda {

template <int V, class T>
PRESTISSIMO_DEVICE void load_gate(const T* gate, GateForm form, float (&g)[V]) {
  load(gate, g);
  if (form == GateForm::plain) return;
#pragma unroll
  for (int i = 0; i < V; ++i) g[i] = sigmoid(1.0f - g[i]);
}

// dgate from the sum of dy * branch.
template <class T>
PRESTISSIMO_DEVICE float close_gate(float sum, T gate, GateForm form) {
  return form == GateForm::plain ? sum : -sum * sigmoid_and_slope(1.0f - to_float(gate)).slope;
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

}  // namespace prestissimo::cuda
