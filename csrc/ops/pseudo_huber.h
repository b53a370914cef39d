// SPDX-License-Identifier: Apache-2.0
// loss[b] = sqrt(d2 + c^2) - c = d2 / (sqrt(d2 + c^2) + c),  d2 = sum of (x - y)^2 over sample b: the second form has
// all its digits where d2 is small.
// Backward: dx = dloss (x - y) / (loss + c),  dy = -dx.
#pragma once
#include "../cpu/isa.h"
#include "sample_sums.h"

namespace prestissimo {

struct PseudoHuberArgs {
  Samples x, y;
  float* loss;     // [B]
  float* partial;  // [B][sum_blocks(size)]
  int64_t batch, size;
  double c;
  DType dtype;
};

struct PseudoHuberBackwardArgs {
  Samples x, y;
  SamplesOut dx, dy;          // data null when not wanted
  const float *dloss, *loss;  // [B]
  int64_t batch, size;
  double c;
  DType dtype;
};

namespace cuda {
void pseudo_huber(const PseudoHuberArgs&, Stream);
void pseudo_huber_backward(const PseudoHuberBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(pseudo_huber, PseudoHuberArgs)
PRESTISSIMO_CPU_KERNEL(pseudo_huber_backward, PseudoHuberBackwardArgs)
