// SPDX-License-Identifier: Apache-2.0
// The gate of a residual branch, and its gradient; formulas in ops/gated_residual.h.
#pragma once
#include "../ops/gated_residual.h"
#include "math.cuh"
#include "vec.cuh"

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

}  // namespace prestissimo::cuda
