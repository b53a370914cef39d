// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "../ops/geglu.h"
#include "gated_linear_unit.cuh"

namespace prestissimo::cuda {

FOR_VECTORS(GATED_INSTANCE, geglu, Gelu)
FOR_VECTORS(GATED_INSTANCE, geglu_tanh, GeluTanh)

#define GEGLU_KERNELS(X) GATED_KERNELS(X, geglu) GATED_KERNELS(X, geglu_tanh)
#define GEGLU_PLANS(X) X(geglu, GatedLinearUnitArgs) X(geglu_backward, GatedLinearUnitBackwardArgs)

}  // namespace prestissimo::cuda
