// SPDX-License-Identifier: Apache-2.0
#include "relaxed_topk.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

constexpr const char* kForward = "relaxed_topk";
constexpr const char* kBackward = "relaxed_topk_backward";

void relaxed_topk(Stream stream, const Array& scores, int64_t k, const Array* counts, const Array* offsets,
                  double temperature, int64_t hard, int64_t selected, const Array* slots, const Array* noise,
                  const Array* workspace, const Array& out) {
  const RelaxedTopkArgs a{checked_rows(kForward, scores, k, counts, offsets, temperature, hard != 0, selected, slots,
                                       noise, kMostRelaxedSteps),
                          out.data, checked_workspace(kForward, workspace, scores, 2)};
  check_like_scores(kForward, "out", out, scores);
  if (scores.numel() == 0) return;
  PRESTISSIMO_RUN(relaxed_topk, scores, a, stream);
}

void relaxed_topk_backward(Stream stream, const Array& dout, const Array& scores, int64_t k, const Array* counts,
                           const Array* offsets, double temperature, const Array* noise, const Array* workspace,
                           const Array& dscores) {
  RelaxedTopkBackwardArgs a{
      checked_rows(kBackward, scores, k, counts, offsets, temperature, false, -1, nullptr, noise, kMostRelaxedSteps),
      dout.data, dscores.data, nullptr};
  a.workspace = checked_workspace(kBackward, workspace, scores, a.rows.k + 2);
  check_like_scores(kBackward, "dout", dout, scores);
  check_like_scores(kBackward, "dscores", dscores, scores);
  if (scores.numel() == 0) return;
  PRESTISSIMO_RUN(relaxed_topk_backward, scores, a, stream);
}

}  // namespace

PRESTISSIMO_OP(relaxed_topk, "scores", "k", "k", "offsets", "temperature", "hard", "slots", "slots", "noise",
               "workspace", "out")
PRESTISSIMO_OP(relaxed_topk_backward, "dout", "scores", "k", "k", "offsets", "temperature", "noise", "workspace",
               "dscores")

}  // namespace prestissimo
