// SPDX-License-Identifier: Apache-2.0
// y = a silu(b): formulas and Args in gated_linear_unit.h.
#pragma once
#include "gated_linear_unit.h"

namespace prestissimo::cuda {
void swiglu(const GatedLinearUnitArgs&, Stream);
void swiglu_backward(const GatedLinearUnitBackwardArgs&, Stream);
}  // namespace prestissimo::cuda

PRESTISSIMO_CPU_KERNEL(swiglu, GatedLinearUnitArgs)
PRESTISSIMO_CPU_KERNEL(swiglu_backward, GatedLinearUnitBackwardArgs)
