// SPDX-License-Identifier: Apache-2.0
// The gate of a residual branch, and its gradient; formulas in ops/gated_residual.h.
#pragma once
#include "../ops/gated_residual.h"
#include "math.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

inline Vec opened(Vec gate, GateForm form) { return form == GateForm::plain ? gate : sigmoid(broadcast(1.0f) - gate); }

// g of one sample, in the order of T's blocks.
template <class T>
void open_gate(const T* gate, GateForm form, float* g, int64_t n) {
  for_blocks(
      n,
      [&](int64_t i) {
        for (int j = 0; j < 4; ++j) store(g + i + j * Vec::lanes, opened(load_of_block(gate + i, j), form));
      },
      [&](int64_t i, int k) { store(g + i, opened(load(gate + i, k), form), k); });
}

// dgate of one sample from the sums of dy * branch over its blocks of rows, which lie in the order of T's blocks or in
// their own.
template <bool kInBlocks, class T>
void close_gate(const float* partial, int64_t blocks, const T* gate, GateForm form, T* dgate, int64_t n) {
  const auto closed = [&](Vec sum, Vec v) {
    return form == GateForm::plain ? sum : zero() - sum * sigmoid_and_slope(broadcast(1.0f) - v).slope;
  };
  const auto lanes = [&](int64_t i, int k) {
    store(dgate + i, closed(sum_rows(partial, blocks, n, i, k), load(gate + i, k)), k);
  };
  if (!kInBlocks) return for_lanes(n, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
  for_blocks(
      n,
      [&](int64_t i) {
        Vec v[4];
        for (int j = 0; j < 4; ++j)
          v[j] = closed(sum_rows(partial, blocks, n, i + j * Vec::lanes, Vec::lanes), load_of_block(gate + i, j));
        store_block(dgate + i, v);
      },
      lanes);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
