// SPDX-License-Identifier: Apache-2.0
#include "pseudo_huber.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void check_c(const char* op, double c) {
  if (!(c >= 0)) fail(op, "c must be at least 0, got " + std::to_string(c));
}

void pseudo_huber(Stream stream, const Array& x, const Array& y, double c, const Array& partial, const Array& loss) {
  constexpr const char* op = "pseudo_huber";
  const LatentChecker check(op, "x", x);
  check.like("y", y).per_sample("loss", loss);
  check_c(op, c);
  const int64_t size = sample_size(x);
  float* sums = partial_sums(check.checker(), partial, x.size(0), size, 1);
  if (x.size(0) == 0) return;
  const PseudoHuberArgs a{samples(x), samples(y), loss.as<float>(), sums, x.size(0), size, c, x.dtype};
  PRESTISSIMO_RUN(pseudo_huber, x, a, stream);
}

void pseudo_huber_backward(Stream stream, const Array& dloss, const Array& loss, const Array& x, const Array& y,
                           double c, const Array* dx, const Array* dy) {
  constexpr const char* op = "pseudo_huber_backward";
  const LatentChecker check(op, "x", x);
  check.like("y", y).per_sample("dloss", dloss).per_sample("loss", loss).like("dx", dx).like("dy", dy);
  check_c(op, c);
  if (x.numel() == 0) return;
  const PseudoHuberBackwardArgs a{
      samples(x),     samples(y), samples_out(dx), samples_out(dy), dloss.as<float>(), loss.as<float>(), x.size(0),
      sample_size(x), c,          x.dtype};
  PRESTISSIMO_RUN(pseudo_huber_backward, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(pseudo_huber, "x", "y", "c", "partial", "loss")
PRESTISSIMO_OP(pseudo_huber_backward, "dloss", "loss", "x", "y", "c", "dx", "dy")

}  // namespace prestissimo
