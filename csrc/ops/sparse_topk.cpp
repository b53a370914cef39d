// SPDX-License-Identifier: Apache-2.0
#include "../registry.h"
#include "threshold_topk.h"

namespace prestissimo {
namespace {

double exponent(const char* op, double p) {
  if (!(p > 1.0 && p <= 2.0)) fail(op, "p must be above 1 and at most 2, got " + std::to_string(p));
  return 1.0 / (p - 1.0);
}

void sparse_topk(Stream stream, const Array& scores, int64_t k, const Array* counts, const Array* offsets,
                 double temperature, int64_t hard, int64_t selected, const Array* slots, const Array* noise, double p,
                 const Array* workspace, const Array& out, const Array& thresholds) {
  threshold_topk("sparse_topk", stream, scores, k, counts, offsets, temperature, hard, selected, slots, noise,
                 workspace, out, thresholds, TopkLink::power, exponent("sparse_topk", p));
}

void sparse_topk_backward(Stream stream, const Array& dout, const Array& scores, const Array& thresholds,
                          const Array* offsets, double temperature, const Array* noise, double p,
                          const Array& dscores) {
  threshold_topk_backward("sparse_topk_backward", stream, dout, scores, thresholds, offsets, temperature, noise,
                          dscores, TopkLink::power, exponent("sparse_topk_backward", p));
}

}  // namespace

PRESTISSIMO_OP(sparse_topk, "scores", "k", "k", "offsets", "temperature", "hard", "slots", "slots", "noise", "p",
               "workspace", "out", "thresholds")
PRESTISSIMO_OP(sparse_topk_backward, "dout", "scores", "thresholds", "offsets", "temperature", "noise", "p", "dscores")

}  // namespace prestissimo
