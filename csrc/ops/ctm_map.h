// SPDX-License-Identifier: Apache-2.0
// y = (s/t) x + (1 - s/t) g,  t and s for each sample;  g = f, or with sigma_data > 0 the preconditioned
// g = c_skip(t) x + c_out(t) f  of edm_denoise.h.
#pragma once
#include "../cpu/isa.h"
#include "blend.h"

namespace prestissimo {

struct CtmMapArgs {
  Blend blend;
  const float *t, *s;  // [B]
  double sigma_data;   // 0: f is g itself
};
struct CtmMapBackwardArgs {
  BlendBackward blend;
  const float *t, *s;
  double sigma_data;
};

namespace cuda {
void ctm_map(const CtmMapArgs&, Stream);
void ctm_map_backward(const CtmMapBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(ctm_map, CtmMapArgs)
PRESTISSIMO_CPU_KERNEL(ctm_map_backward, CtmMapBackwardArgs)
