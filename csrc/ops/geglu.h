// SPDX-License-Identifier: Apache-2.0
// y = a gelu(b): formulas and Args in gated_linear_unit.h.
#pragma once
#include "gated_linear_unit.h"

namespace prestissimo::cuda {
void geglu(const GatedLinearUnitArgs&, Stream);
void geglu_backward(const GatedLinearUnitBackwardArgs&, Stream);
}  // namespace prestissimo::cuda

PRESTISSIMO_CPU_KERNEL(geglu, GatedLinearUnitArgs)
PRESTISSIMO_CPU_KERNEL(geglu_backward, GatedLinearUnitBackwardArgs)
