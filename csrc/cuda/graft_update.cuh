// SPDX-License-Identifier: Apache-2.0
// Formula: ops/graft_update.h.
#pragma once
#include "../ops/graft_update.h"
#include "tensor_group.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const GraftUpdateArgs& a) {
  LaunchPlan p;
  add_list_blocks(p, "graft_update", a.group, a.dtype);
  return p;
}
inline const GraftUpdateArgs& parameters(const GraftUpdateArgs& a) { return a; }

template <class T, int V>
PRESTISSIMO_DEVICE void graft_update_body(const GraftUpdateArgs& a) {
  const ListShare<3> share(a.group);
  const T *p = share.data<const T>(a.group, 0), *g = share.data<const T>(a.group, 1);
  T* y = share.data<T>(a.group, 2);
  const float norm = sqrtf(*a.direction);
  const float factor = norm == 0.0f ? 0.0f : -static_cast<float>(a.rate) * sqrtf(*a.magnitude) / norm;
  share.for_each<V>(
      [&](int64_t i) {
        float v[V], d[V];
        load(p + i, v);
        load(g + i, d);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = fmaf(factor, d[j], v[j]);
        store_global(y + i, v);
      },
      [&](int64_t i) { y[i] = from_float<T>(fmaf(factor, to_float(g[i]), to_float(p[i]))); });
}

#define GRAFT_UPDATE_KERNEL(suffix, T, V, ...)                           \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)             \
      graft_update_##suffix(const __grid_constant__ GraftUpdateArgs a) { \
    graft_update_body<T, V>(a);                                          \
  }
FLAT_TYPES(GRAFT_UPDATE_KERNEL)

#define GRAFT_UPDATE_KERNELS(X) FLAT_TYPES(FLAT_NAME, X, graft_update)
#define GRAFT_UPDATE_PLANS(X) X(graft_update, GraftUpdateArgs)

}  // namespace prestissimo::cuda
