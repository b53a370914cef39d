// SPDX-License-Identifier: Apache-2.0
// Formula: ops/ctm_map.h.
#pragma once
#include "../ops/ctm_map.h"
#include "blend.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const CtmMapArgs& a) { return blend_plan("ctm_map", a.blend, 0); }
inline LaunchPlan plan(const CtmMapBackwardArgs& a) { return blend_plan("ctm_map_backward", a.blend, 1); }
inline const CtmMapArgs& parameters(const CtmMapArgs& a) { return a; }
inline const CtmMapBackwardArgs& parameters(const CtmMapBackwardArgs& a) { return a; }

template <class Args>
PRESTISSIMO_DEVICE Weights ctm_map_weights(const Args& a, int64_t b) {
  const float t = a.t[b], s = a.s[b], keep = s / t, rest = (t - s) / t, sd = static_cast<float>(a.sigma_data);
  if (sd == 0.0f) return {keep, rest};
  const float variance = t * t + sd * sd;
  return {keep + rest * (sd * sd / variance), rest * (t * sd / sqrtf(variance))};
}

#define CTM_MAP_KERNEL(suffix, T, V, ...)                                                                             \
  extern "C" __global__ void __launch_bounds__(kFlatThreads) ctm_map_##suffix(const __grid_constant__ CtmMapArgs a) { \
    blend<T, V, true>(a.blend, [&](int64_t b) { return ctm_map_weights(a, b); });                                     \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                                                          \
      ctm_map_backward_##suffix(const __grid_constant__ CtmMapBackwardArgs a) {                                       \
    blend_backward<T, V>(a.blend, [&](int64_t b) { return ctm_map_weights(a, b); });                                  \
  }
FLAT_TYPES(CTM_MAP_KERNEL)

#define CTM_MAP_KERNELS(X) FLAT_TYPES(FLAT_NAME, X, ctm_map) FLAT_TYPES(FLAT_NAME, X, ctm_map_backward)
#define CTM_MAP_PLANS(X) X(ctm_map, CtmMapArgs) X(ctm_map_backward, CtmMapBackwardArgs)

}  // namespace prestissimo::cuda
