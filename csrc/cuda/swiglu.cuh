// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "../ops/swiglu.h"
#include "gated_linear_unit.cuh"

namespace prestissimo::cuda {

FOR_VECTORS(GATED_INSTANCE, swiglu, Silu)

#define SWIGLU_KERNELS(X) GATED_KERNELS(X, swiglu)
#define SWIGLU_PLANS(X) X(swiglu, GatedLinearUnitArgs) X(swiglu_backward, GatedLinearUnitBackwardArgs)

}  // namespace prestissimo::cuda
