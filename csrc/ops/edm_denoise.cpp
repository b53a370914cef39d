// SPDX-License-Identifier: Apache-2.0
#include "edm_denoise.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void check_sigma_data(const char* op, double sigma_data) {
  if (!(sigma_data > 0)) fail(op, "sigma_data must be positive, got " + std::to_string(sigma_data));
}

void edm_denoise(Stream stream, const Array& x, const Array& prediction, const Array& sigma, double sigma_data,
                 const Array& y) {
  constexpr const char* op = "edm_denoise";
  LatentChecker(op, "x", x).like("prediction", prediction).per_sample("sigma", sigma).like("y", y);
  check_sigma_data(op, sigma_data);
  if (x.numel() == 0) return;
  const EdmDenoiseArgs a{{samples(x), samples(prediction), samples_out(y), x.size(0), sample_size(x), x.dtype},
                         sigma.as<float>(),
                         sigma_data};
  PRESTISSIMO_RUN(edm_denoise, x, a, stream);
}

void edm_denoise_backward(Stream stream, const Array& dy, const Array& sigma, double sigma_data, const Array* dx,
                          const Array* dprediction) {
  constexpr const char* op = "edm_denoise_backward";
  LatentChecker(op, "dy", dy).per_sample("sigma", sigma).like("dx", dx).like("dprediction", dprediction);
  check_sigma_data(op, sigma_data);
  if (dy.numel() == 0) return;
  const EdmDenoiseBackwardArgs a{
      {samples(dy), samples_out(dx), samples_out(dprediction), dy.size(0), sample_size(dy), dy.dtype},
      sigma.as<float>(),
      sigma_data};
  PRESTISSIMO_RUN(edm_denoise_backward, dy, a, stream);
}

}  // namespace

PRESTISSIMO_OP(edm_denoise, "x", "prediction", "sigma", "sigma_data", "y")
PRESTISSIMO_OP(edm_denoise_backward, "dy", "sigma", "sigma_data", "dx", "dprediction")

}  // namespace prestissimo
