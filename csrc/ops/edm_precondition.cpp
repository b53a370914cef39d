// SPDX-License-Identifier: Apache-2.0
#include "edm_precondition.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void edm_precondition(Stream stream, const Array& x, const Array& sigma, double sigma_data, const Array& y) {
  constexpr const char* op = "edm_precondition";
  LatentChecker(op, "x", x).per_sample("sigma", sigma).like("y", y);
  if (!(sigma_data > 0)) fail(op, "sigma_data must be positive, got " + std::to_string(sigma_data));
  if (x.numel() == 0) return;
  const EdmPreconditionArgs a{
      {samples(x), {}, samples_out(y), x.size(0), sample_size(x), x.dtype}, sigma.as<float>(), sigma_data};
  PRESTISSIMO_RUN(edm_precondition, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(edm_precondition, "x", "sigma", "sigma_data", "y")

}  // namespace prestissimo
