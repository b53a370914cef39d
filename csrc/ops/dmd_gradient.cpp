// SPDX-License-Identifier: Apache-2.0
#include "dmd_gradient.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void dmd_gradient(Stream stream, const Array& x, const Array& fake, const Array& real, double eps, const Array& partial,
                  const Array& y) {
  constexpr const char* op = "dmd_gradient";
  const LatentChecker check(op, "x", x);
  check.like("fake", fake).like("real", real).like("y", y);
  if (!(eps >= 0)) fail(op, "eps must be at least 0, got " + std::to_string(eps));
  const int64_t size = sample_size(x);
  float* sums = partial_sums(check.checker(), partial, x.size(0), size, 1);
  if (x.numel() == 0) return;
  const DmdGradientArgs a{samples(x), samples(fake), samples(real),           samples_out(y), sums,
                          x.size(0),  size,          static_cast<float>(eps), x.dtype};
  PRESTISSIMO_RUN(dmd_gradient, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(dmd_gradient, "x", "fake", "real", "eps", "partial", "y")

}  // namespace prestissimo
