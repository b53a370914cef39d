// SPDX-License-Identifier: Apache-2.0
// The top-k ops with a threshold: in every row
//   y = h((scores + noise - s) / t),   s such that sum y = k
// sigmoid_topk: h(u) = 1 / (1 + e^-u);  ot_topk: the same with half its regularisation for t;
// sparse_topk: h(u) = clamp(u, 0, 1)^q, q = 1 / (p - 1).
// Rows with at most k finite scores are 1 there. Hard: 1 at the k highest scores, the gradient that of y.
//
// Backward, with v = h'(u) (docs/threshold_topk.md):  dscores = v (dy - <v, dy> / sum v) / t
#pragma once
#include "../cpu/isa.h"
#include "topk_rows.h"

namespace prestissimo {

enum class TopkLink : uint8_t { sigmoid, power };

// u = (score - thresholds[r][0]) / t - thresholds[r][1]: the first in units of the scores, the second what rounding
// leaves of it. Plus or minus kNoThreshold where all or none of a row are taken. `workspace` as in relaxed_topk.h:
// [2][size].
constexpr float kNoThreshold = 3.4e38f;
struct ThresholdTopkArgs {
  TopkRows rows;
  void* out;
  float *thresholds, *workspace;
  float exponent;  // q
  TopkLink link;
};
struct ThresholdTopkBackwardArgs {
  TopkRows rows;
  const void* dout;
  const float* thresholds;
  void* dscores;
  float exponent;
  TopkLink link;
};

namespace cuda {
void threshold_topk(const ThresholdTopkArgs&, Stream);
void threshold_topk_backward(const ThresholdTopkBackwardArgs&, Stream);
}  // namespace cuda

// The host functions of the three ops; `op` names them in errors. k has no upper bound.
constexpr int64_t kMostTopk = INT64_MAX;
void threshold_topk(const char* op, Stream stream, const Array& scores, int64_t k, const Array* counts,
                    const Array* offsets, double temperature, int64_t hard, int64_t selected, const Array* slots,
                    const Array* noise, const Array* workspace, const Array& out, const Array& thresholds,
                    TopkLink link, double exponent);
void threshold_topk_backward(const char* op, Stream stream, const Array& dout, const Array& scores,
                             const Array& thresholds, const Array* offsets, double temperature, const Array* noise,
                             const Array& dscores, TopkLink link, double exponent);

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(threshold_topk, ThresholdTopkArgs)
PRESTISSIMO_CPU_KERNEL(threshold_topk_backward, ThresholdTopkBackwardArgs)
