// SPDX-License-Identifier: Apache-2.0
// Formula: ops/edm_denoise.h.
#pragma once
#include "../ops/edm_denoise.h"
#include "blend.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const EdmDenoiseArgs& a) { return blend_plan("edm_denoise", a.blend, 0); }
inline LaunchPlan plan(const EdmDenoiseBackwardArgs& a) { return blend_plan("edm_denoise_backward", a.blend, 1); }
inline const EdmDenoiseArgs& parameters(const EdmDenoiseArgs& a) { return a; }
inline const EdmDenoiseBackwardArgs& parameters(const EdmDenoiseBackwardArgs& a) { return a; }

template <class Args>
PRESTISSIMO_DEVICE Weights edm_denoise_weights(const Args& a, int64_t b) {
  const float sigma = a.sigma[b], sd = static_cast<float>(a.sigma_data), variance = sigma * sigma + sd * sd;
  return {sd * sd / variance, sigma * sd / sqrtf(variance)};
}

#define EDM_DENOISE_KERNEL(suffix, T, V, ...)                                            \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                             \
      edm_denoise_##suffix(const __grid_constant__ EdmDenoiseArgs a) {                   \
    blend<T, V, true>(a.blend, [&](int64_t b) { return edm_denoise_weights(a, b); });    \
  }                                                                                      \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                             \
      edm_denoise_backward_##suffix(const __grid_constant__ EdmDenoiseBackwardArgs a) {  \
    blend_backward<T, V>(a.blend, [&](int64_t b) { return edm_denoise_weights(a, b); }); \
  }
FLAT_TYPES(EDM_DENOISE_KERNEL)

#define EDM_DENOISE_KERNELS(X) FLAT_TYPES(FLAT_NAME, X, edm_denoise) FLAT_TYPES(FLAT_NAME, X, edm_denoise_backward)
#define EDM_DENOISE_PLANS(X) X(edm_denoise, EdmDenoiseArgs) X(edm_denoise_backward, EdmDenoiseBackwardArgs)

}  // namespace prestissimo::cuda
