// SPDX-License-Identifier: Apache-2.0
// In every row, with p = softmax(x) over subclasses, q = softmax(z) over classes and c(s) = parents[s]:
//
//   r_s = p_s q_c(s)
//
// Backward from g, with t = sum_s g_s r_s, which both softmaxes subtract:
//
//   dx_s = p_s (g_s q_c(s) - t),   dz_c = q_c (sum of g_s p_s over the subclasses s of c - t)
#pragma once
#include "../array.h"
#include "../cpu/isa.h"

namespace prestissimo {

struct HierarchyProbsArgs {
  const void *x, *z;           // [N, S], [N, C]
  int64_t x_stride, z_stride;  // of rows, in elements
  int64_t N, S, C;
  const int64_t* parents;  // [S]
  void* out;               // [N, S]
  DType dtype;
};

struct HierarchyProbsBackwardArgs {
  HierarchyProbsArgs forward;  // out is unused
  const void* dout;            // [N, S]
  void *dx, *dz;               // [N, S], [N, C]
  // On the GPU the subclasses class by class, those of c at order[first[c]] to order[first[c + 1]]: their sum goes
  // through one thread in this order. Null on the CPU.
  const int64_t *order, *first;  // [S], [C + 1]
};

namespace cuda {
void hierarchy_probs(const HierarchyProbsArgs&, Stream);
void hierarchy_probs_backward(const HierarchyProbsBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(hierarchy_probs, HierarchyProbsArgs)
PRESTISSIMO_CPU_KERNEL(hierarchy_probs_backward, HierarchyProbsBackwardArgs)
