// SPDX-License-Identifier: Apache-2.0
#include "threshold_topk.h"

#include "dispatch.h"

namespace prestissimo {
namespace {

void check_thresholds(const char* op, const Array& thresholds, const Array& scores, int64_t rows) {
  const Checker check(op, "scores", scores);
  check.shape("thresholds", thresholds, {rows, 2}).dtype("thresholds", thresholds, DType::float32);
  check.same_device("thresholds", thresholds).contiguous("thresholds", thresholds);
}

}  // namespace

void threshold_topk(const char* op, Stream stream, const Array& scores, int64_t k, const Array* counts,
                    const Array* offsets, double temperature, int64_t hard, int64_t selected, const Array* slots,
                    const Array* noise, const Array* workspace, const Array& out, const Array& thresholds,
                    TopkLink link, double exponent) {
  const TopkRows rows =
      checked_rows(op, scores, k, counts, offsets, temperature, hard != 0, selected, slots, noise, kMostTopk);
  check_like_scores(op, "out", out, scores);
  check_thresholds(op, thresholds, scores, rows.rows);
  const ThresholdTopkArgs a{
      rows, out.data, thresholds.as<float>(), checked_workspace(op, workspace, scores, 2), static_cast<float>(exponent),
      link};
  if (scores.numel() == 0) return;
  PRESTISSIMO_RUN(threshold_topk, scores, a, stream);
}

void threshold_topk_backward(const char* op, Stream stream, const Array& dout, const Array& scores,
                             const Array& thresholds, const Array* offsets, double temperature, const Array* noise,
                             const Array& dscores, TopkLink link, double exponent) {
  const TopkRows rows =
      checked_rows(op, scores, 0, nullptr, offsets, temperature, false, -1, nullptr, noise, kMostTopk);
  check_like_scores(op, "dout", dout, scores);
  check_like_scores(op, "dscores", dscores, scores);
  check_thresholds(op, thresholds, scores, rows.rows);
  const ThresholdTopkBackwardArgs a{rows, dout.data, thresholds.as<float>(), dscores.data, static_cast<float>(exponent),
                                    link};
  if (scores.numel() == 0) return;
  PRESTISSIMO_RUN(threshold_topk_backward, scores, a, stream);
}

}  // namespace prestissimo
