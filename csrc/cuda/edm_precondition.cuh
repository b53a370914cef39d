// SPDX-License-Identifier: Apache-2.0
// Formula: ops/edm_precondition.h.
#pragma once
#include "../ops/edm_precondition.h"
#include "blend.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const EdmPreconditionArgs& a) { return blend_plan("edm_precondition", a.blend, 0); }
inline const EdmPreconditionArgs& parameters(const EdmPreconditionArgs& a) { return a; }

PRESTISSIMO_DEVICE Weights edm_precondition_weights(const EdmPreconditionArgs& a, int64_t b) {
  const float sigma = a.sigma[b], sd = static_cast<float>(a.sigma_data);
  return {1.0f / sqrtf(sigma * sigma + sd * sd), 0.0f};
}

#define EDM_PRECONDITION_KERNEL(suffix, T, V, ...)                                          \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                                \
      edm_precondition_##suffix(const __grid_constant__ EdmPreconditionArgs a) {            \
    blend<T, V, false>(a.blend, [&](int64_t b) { return edm_precondition_weights(a, b); }); \
  }
FLAT_TYPES(EDM_PRECONDITION_KERNEL)

#define EDM_PRECONDITION_KERNELS(X) FLAT_TYPES(FLAT_NAME, X, edm_precondition)
#define EDM_PRECONDITION_PLANS(X) X(edm_precondition, EdmPreconditionArgs)

}  // namespace prestissimo::cuda
