// SPDX-License-Identifier: Apache-2.0
// y = c_skip x + c_out f,  c_skip = sigma_data^2 / (sigma^2 + sigma_data^2),
//                          c_out  = sigma sigma_data / sqrt(sigma^2 + sigma_data^2),  sigma for each sample.
#pragma once
#include "../cpu/isa.h"
#include "blend.h"

namespace prestissimo {

struct EdmDenoiseArgs {
  Blend blend;
  const float* sigma;  // [B]
  double sigma_data;
};
struct EdmDenoiseBackwardArgs {
  BlendBackward blend;
  const float* sigma;  // [B]
  double sigma_data;
};

namespace cuda {
void edm_denoise(const EdmDenoiseArgs&, Stream);
void edm_denoise_backward(const EdmDenoiseBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(edm_denoise, EdmDenoiseArgs)
PRESTISSIMO_CPU_KERNEL(edm_denoise_backward, EdmDenoiseBackwardArgs)
