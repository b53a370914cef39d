// SPDX-License-Identifier: Apache-2.0
// y = c_in x,  c_in = 1 / sqrt(sigma^2 + sigma_data^2), sigma for each sample. Its own gradient: dx = c_in dy.
#pragma once
#include "../cpu/isa.h"
#include "blend.h"

namespace prestissimo {

struct EdmPreconditionArgs {
  Blend blend;         // f absent
  const float* sigma;  // [B]
  double sigma_data;
};

namespace cuda {
void edm_precondition(const EdmPreconditionArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(edm_precondition, EdmPreconditionArgs)
