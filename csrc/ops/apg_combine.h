// SPDX-License-Identifier: Apache-2.0
// Adaptive projected guidance, everything for each sample:
//
// d = c - u + momentum average
// s = min(1, threshold / |d|)           threshold 0: s = 1
// y = c + (w - 1) s (d + (eta - 1) (d.c / c.c) c)
// average' = d
//
// c.c counts as kLeastSquare at least. Backward, with g = dy, m = (w - 1) s, e = eta - 1, p = d.c, q = c.c:
// dd = m g + (m e g.c / q) c - (s < 1: m g.(d + e p/q c) / |d|^2) d + daverage',
// dc = g + (m e p / q) g + (m e g.c / q) d - (2 m e p g.c / q^2) c + dd,  du = -dd,  daverage = momentum dd.
#pragma once
#include "../cpu/isa.h"
#include "sample_sums.h"

namespace prestissimo {

struct ApgWeights {
  float guidance;  // w - 1
  float eta;       // eta - 1
  float threshold, momentum;
};

constexpr float kLeastSquare = 1e-24f;

struct ApgCombineArgs {
  Samples conditional, unconditional, average;  // average: data null when absent
  SamplesOut y, next;                           // next: average', data null when not wanted
  float* partial;                               // [B][sum_blocks(size)][3]: d.d, d.c, c.c
  ApgWeights weights;
  int64_t batch, size;
  DType dtype;
};

struct ApgCombineBackwardArgs {
  Samples dy, dnext, conditional, unconditional, average;  // dnext, average: data null when absent
  SamplesOut dconditional, dunconditional, daverage;       // data null when not wanted
  float* partial;                                          // [B][sum_blocks(size)][5]: d.d, d.c, c.c, g.c, g.d
  ApgWeights weights;
  int64_t batch, size;
  DType dtype;
};

namespace cuda {
void apg_combine(const ApgCombineArgs&, Stream);
void apg_combine_backward(const ApgCombineBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(apg_combine, ApgCombineArgs)
PRESTISSIMO_CPU_KERNEL(apg_combine_backward, ApgCombineBackwardArgs)
