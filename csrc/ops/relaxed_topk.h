// SPDX-License-Identifier: Apache-2.0
// For every row, with a_1 = scores + noise and t the temperature:
//   p_i = softmax(a_i / t),   a_{i+1} = a_i + ln max(1 - p_i, tiny),   khot = p_1 + ... + p_k
// tiny is the smallest normal float32. At most one p of a row exceeds 1/2; its 1 - p is the sum of the others, which
// cancels nothing. Hard: 1 at the highest khot (then scores, then the first), 0 elsewhere.
//
// Backward, with G = dkhot, m_i = max(1 - p_i, tiny) and d_{k+1} = 0 (docs/relaxed_topk.md):
//   q_i = G - d_{i+1} / m_i [where 1 - p_i > tiny],   d_i = d_{i+1} + p_i (q_i - <q_i, p_i>) / t,   dscores = d_1
#pragma once
#include "../cpu/isa.h"
#include "topk_rows.h"

namespace prestissimo {

constexpr int64_t kMostRelaxedSteps = 64;
constexpr float kRelaxedTiny = 1.17549435e-38f;

// On the GPU `workspace` holds the state of every score between passes: a and khot in the forward, [2][size]; a, d and
// p of every step in the backward, [k + 2][size]. Null on the CPU.
struct RelaxedTopkArgs {
  TopkRows rows;
  void* out;
  float* workspace;
};
struct RelaxedTopkBackwardArgs {
  TopkRows rows;
  const void* dout;
  void* dscores;
  float* workspace;
};

namespace cuda {
void relaxed_topk(const RelaxedTopkArgs&, Stream);
void relaxed_topk_backward(const RelaxedTopkBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(relaxed_topk, RelaxedTopkArgs)
PRESTISSIMO_CPU_KERNEL(relaxed_topk_backward, RelaxedTopkBackwardArgs)
