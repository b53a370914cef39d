// SPDX-License-Identifier: Apache-2.0
#include "ctm_map.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void check_sigma_data(const char* op, double sigma_data) {
  if (!(sigma_data >= 0)) fail(op, "sigma_data must be at least 0, got " + std::to_string(sigma_data));
}

void ctm_map(Stream stream, const Array& x, const Array& prediction, const Array& t, const Array& s, double sigma_data,
             const Array& y) {
  constexpr const char* op = "ctm_map";
  LatentChecker(op, "x", x).like("prediction", prediction).per_sample("t", t).per_sample("s", s).like("y", y);
  check_sigma_data(op, sigma_data);
  if (x.numel() == 0) return;
  const CtmMapArgs a{{samples(x), samples(prediction), samples_out(y), x.size(0), sample_size(x), x.dtype},
                     t.as<float>(),
                     s.as<float>(),
                     sigma_data};
  PRESTISSIMO_RUN(ctm_map, x, a, stream);
}

void ctm_map_backward(Stream stream, const Array& dy, const Array& t, const Array& s, double sigma_data,
                      const Array* dx, const Array* dprediction) {
  constexpr const char* op = "ctm_map_backward";
  LatentChecker(op, "dy", dy).per_sample("t", t).per_sample("s", s).like("dx", dx).like("dprediction", dprediction);
  check_sigma_data(op, sigma_data);
  if (dy.numel() == 0) return;
  const CtmMapBackwardArgs a{
      {samples(dy), samples_out(dx), samples_out(dprediction), dy.size(0), sample_size(dy), dy.dtype},
      t.as<float>(),
      s.as<float>(),
      sigma_data};
  PRESTISSIMO_RUN(ctm_map_backward, dy, a, stream);
}

}  // namespace

PRESTISSIMO_OP(ctm_map, "x", "prediction", "t", "s", "sigma_data", "y")
PRESTISSIMO_OP(ctm_map_backward, "dy", "t", "s", "sigma_data", "dx", "dprediction")

}  // namespace prestissimo
