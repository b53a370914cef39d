// SPDX-License-Identifier: Apache-2.0
#include "apg_combine.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

ApgWeights weights(double scale, double eta, double threshold, double momentum) {
  return {static_cast<float>(scale - 1), static_cast<float>(eta - 1), static_cast<float>(threshold),
          static_cast<float>(momentum)};
}

void apg_combine(Stream stream, const Array& conditional, const Array& unconditional, const Array* average,
                 double scale, double eta, double threshold, double momentum, const Array& partial, const Array& y,
                 const Array* next) {
  constexpr const char* op = "apg_combine";
  const LatentChecker check(op, "conditional", conditional);
  check.like("unconditional", unconditional).like("average", average).like("y", y).like("next", next);
  if (!(threshold >= 0)) fail(op, "threshold must be at least 0, got " + std::to_string(threshold));
  const int64_t size = sample_size(y);
  ApgCombineArgs a{};
  a.partial = partial_sums(check.checker(), partial, y.size(0), size, 3);
  if (y.numel() == 0) return;
  a.conditional = samples(conditional);
  a.unconditional = samples(unconditional);
  if (momentum != 0) a.average = samples(average);
  a.y = samples_out(y);
  a.next = samples_out(next);
  a.weights = weights(scale, eta, threshold, momentum);
  a.batch = y.size(0);
  a.size = size;
  a.dtype = y.dtype;
  PRESTISSIMO_RUN(apg_combine, y, a, stream);
}

void apg_combine_backward(Stream stream, const Array& dy, const Array* dnext, const Array& conditional,
                          const Array& unconditional, const Array* average, double scale, double eta, double threshold,
                          double momentum, const Array& partial, const Array* dconditional, const Array* dunconditional,
                          const Array* daverage) {
  constexpr const char* op = "apg_combine_backward";
  const LatentChecker check(op, "dy", dy);
  check.like("dnext", dnext).like("conditional", conditional).like("unconditional", unconditional);
  check.like("average", average).like("dconditional", dconditional).like("dunconditional", dunconditional);
  check.like("daverage", daverage);
  const int64_t size = sample_size(dy);
  ApgCombineBackwardArgs a{};
  a.partial = partial_sums(check.checker(), partial, dy.size(0), size, 5);
  if (dy.numel() == 0) return;
  a.dy = samples(dy);
  a.dnext = samples(dnext);
  a.conditional = samples(conditional);
  a.unconditional = samples(unconditional);
  if (momentum != 0) a.average = samples(average);
  a.dconditional = samples_out(dconditional);
  a.dunconditional = samples_out(dunconditional);
  a.daverage = samples_out(daverage);
  a.weights = weights(scale, eta, threshold, momentum);
  a.batch = dy.size(0);
  a.size = size;
  a.dtype = dy.dtype;
  PRESTISSIMO_RUN(apg_combine_backward, dy, a, stream);
}

}  // namespace

PRESTISSIMO_OP(apg_combine, "conditional", "unconditional", "average", "scale", "eta", "threshold", "momentum",
               "partial", "y", "next")
PRESTISSIMO_OP(apg_combine_backward, "dy", "dnext", "conditional", "unconditional", "average", "scale", "eta",
               "threshold", "momentum", "partial", "dconditional", "dunconditional", "daverage")

}  // namespace prestissimo
