// SPDX-License-Identifier: Apache-2.0
#include "../registry.h"
#include "threshold_topk.h"

namespace prestissimo {
namespace {

void sigmoid_topk(Stream stream, const Array& scores, int64_t k, const Array* counts, const Array* offsets,
                  double temperature, int64_t hard, int64_t selected, const Array* slots, const Array* noise,
                  const Array* workspace, const Array& out, const Array& thresholds) {
  threshold_topk("sigmoid_topk", stream, scores, k, counts, offsets, temperature, hard, selected, slots, noise,
                 workspace, out, thresholds, TopkLink::sigmoid, 1.0);
}

void sigmoid_topk_backward(Stream stream, const Array& dout, const Array& scores, const Array& thresholds,
                           const Array* offsets, double temperature, const Array* noise, const Array& dscores) {
  threshold_topk_backward("sigmoid_topk_backward", stream, dout, scores, thresholds, offsets, temperature, noise,
                          dscores, TopkLink::sigmoid, 1.0);
}

}  // namespace

PRESTISSIMO_OP(sigmoid_topk, "scores", "k", "k", "offsets", "temperature", "hard", "slots", "slots", "noise",
               "workspace", "out", "thresholds")
PRESTISSIMO_OP(sigmoid_topk_backward, "dout", "scores", "thresholds", "offsets", "temperature", "noise", "dscores")

}  // namespace prestissimo
