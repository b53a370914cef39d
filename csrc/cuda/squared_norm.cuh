// SPDX-License-Identifier: Apache-2.0
// Formula: ops/squared_norm.h.
#pragma once
#include "../ops/squared_norm.h"
#include "reduce.cuh"
#include "tensor_group.cuh"

namespace prestissimo::cuda {

constexpr int kTotalThreads = 1024;

inline LaunchPlan plan(const SquaredNormArgs& a) {
  LaunchPlan p;
  add_list_blocks(p, "squared_norm", a.group, a.dtype);
  if (a.total) p.add("squared_norm", 12, 1, kTotalThreads);
  return p;
}
inline LaunchPlan plan(const SquaredNormBackwardArgs& a) {
  LaunchPlan p;
  add_list_blocks(p, "squared_norm_backward", a.group, a.dtype, 1);
  return p;
}
inline const SquaredNormArgs& parameters(const SquaredNormArgs& a) { return a; }
inline const SquaredNormBackwardArgs& parameters(const SquaredNormBackwardArgs& a) { return a; }

template <class T, int V>
PRESTISSIMO_DEVICE void squared_norm_blocks(const SquaredNormArgs& a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  const ListShare<1> share(a.group);
  const T* g = share.data<const T>(a.group, 0);
  float sum[1] = {0.0f};
  share.for_each<V>(
      [&](int64_t i) {
        float v[V];
        load(g + i, v);
#pragma unroll
        for (int j = 0; j < V; ++j) sum[0] = fmaf(v[j], v[j], sum[0]);
      },
      [&](int64_t i) {
        const float v = to_float(g[i]);
        sum[0] = fmaf(v, v, sum[0]);
      });
  block_sum(sum, scratch);
  if (threadIdx.x == 0) a.partial[a.blocks_ahead + blockIdx.x] = sum[0];
}

// All blocks of all groups.
extern "C" __global__ void __launch_bounds__(kTotalThreads)
    squared_norm_total(const __grid_constant__ SquaredNormArgs a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  const int64_t blocks = a.blocks_ahead + a.group.first_blocks[a.group.count];
  float sum[1] = {0.0f};
  for (int64_t i = threadIdx.x; i < blocks; i += kTotalThreads) sum[0] += a.partial[i];
  block_sum(sum, scratch);
  if (threadIdx.x == 0) *a.total = sum[0];
}

template <class T, int V>
PRESTISSIMO_DEVICE void squared_norm_backward(const SquaredNormBackwardArgs& a) {
  const ListShare<2> share(a.group);
  const T* g = share.data<const T>(a.group, 0);
  T* dg = share.data<T>(a.group, 1);
  const float factor = 2.0f * *a.dtotal;
  share.for_each<V>(
      [&](int64_t i) {
        float v[V];
        load(g + i, v);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] *= factor;
        store_global(dg + i, v);
      },
      [&](int64_t i) { dg[i] = from_float<T>(factor * to_float(g[i])); });
}

#define SQUARED_NORM_KERNEL(suffix, T, V, ...)                                            \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                              \
      squared_norm_blocks_##suffix(const __grid_constant__ SquaredNormArgs a) {           \
    squared_norm_blocks<T, V>(a);                                                         \
  }                                                                                       \
  extern "C" __global__ void __launch_bounds__(kFlatThreads)                              \
      squared_norm_backward_##suffix(const __grid_constant__ SquaredNormBackwardArgs a) { \
    squared_norm_backward<T, V>(a);                                                       \
  }
FLAT_TYPES(SQUARED_NORM_KERNEL)

#define SQUARED_NORM_KERNELS(X)                 \
  FLAT_TYPES(FLAT_NAME, X, squared_norm_blocks) \
  FLAT_TYPES(FLAT_NAME, X, squared_norm_backward) X(squared_norm_total)
#define SQUARED_NORM_PLANS(X) X(squared_norm, SquaredNormArgs) X(squared_norm_backward, SquaredNormBackwardArgs)

}  // namespace prestissimo::cuda
