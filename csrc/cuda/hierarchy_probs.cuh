// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/hierarchy_probs.h. One block a row; logits come from the caches after the first pass, and every
// exponential is computed where it is used.
#pragma once
#include "../ops/hierarchy_probs.h"
#include "reduce.cuh"
#include "vec.cuh"

namespace prestissimo::cuda {

// In the order of HIERARCHY_PROBS_KERNELS: forward and backward, three dtypes.
inline LaunchPlan hierarchy_probs_plan(const HierarchyProbsArgs& a, const char* op, int direction) {
  const int dtype = a.dtype == DType::float32 ? 0 : a.dtype == DType::bfloat16 ? 1 : 2;
  const int64_t threads = ceil_div(a.S > a.C ? a.S : a.C, 4 * kWarpSize) * kWarpSize;
  LaunchPlan p;
  p.add(op, direction * 3 + dtype, a.N,
        static_cast<uint32_t>(threads < kWarpSize ? kWarpSize
                              : threads > 512     ? 512
                                                  : threads));
  return p;
}
inline LaunchPlan plan(const HierarchyProbsArgs& a) { return hierarchy_probs_plan(a, "hierarchy_probs", 0); }
inline LaunchPlan plan(const HierarchyProbsBackwardArgs& a) {
  return hierarchy_probs_plan(a.forward, "hierarchy_probs_backward", 1);
}
inline const HierarchyProbsArgs& parameters(const HierarchyProbsArgs& a) { return a; }
inline const HierarchyProbsBackwardArgs& parameters(const HierarchyProbsBackwardArgs& a) { return a; }

// softmax(x)_i = e^(x_i - highest) inverse
template <class T>
struct Softmax {
  const T* x;
  float highest, inverse;

  // `scratch` of 2 kMaxWarps that no other call uses.
  PRESTISSIMO_DEVICE Softmax(const T* row, int64_t n, float* scratch) : x(row) {
    float most = -INFINITY, total[1] = {0.0f};
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) most = fmaxf(most, to_float(x[i]));
    highest = block_max(most, scratch);
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) total[0] += expf(to_float(x[i]) - highest);
    block_sum(total, scratch + kMaxWarps);
    inverse = 1.0f / total[0];
  }
  PRESTISSIMO_DEVICE float operator()(int64_t i) const { return expf(to_float(x[i]) - highest) * inverse; }
};

PRESTISSIMO_DEVICE int64_t parent_of(const HierarchyProbsArgs& a, int64_t s) {
  const int64_t c = a.parents[s];
  return c < 0 ? 0 : c < a.C ? c : a.C - 1;
}

constexpr int kHierarchyProbsScratch = 4 * kMaxWarps;

template <class T>
PRESTISSIMO_DEVICE void hierarchy_probs_body(const HierarchyProbsArgs& a) {
  SHARED_ARRAY(float, scratch, kHierarchyProbsScratch);
  const int64_t row = blockIdx.x;
  const Softmax<T> q(static_cast<const T*>(a.z) + row * a.z_stride, a.C, scratch);
  const Softmax<T> p(static_cast<const T*>(a.x) + row * a.x_stride, a.S, scratch + 2 * kMaxWarps);
  T* out = static_cast<T*>(a.out) + row * a.S;
#pragma unroll 1
  for (int64_t s = threadIdx.x; s < a.S; s += blockDim.x) out[s] = from_float<T>(p(s) * q(parent_of(a, s)));
}

template <class T>
PRESTISSIMO_DEVICE void hierarchy_probs_backward_body(const HierarchyProbsBackwardArgs& args) {
  SHARED_ARRAY(float, scratch, (kHierarchyProbsScratch + kMaxWarps));
  const HierarchyProbsArgs& a = args.forward;
  const int64_t row = blockIdx.x;
  const Softmax<T> q(static_cast<const T*>(a.z) + row * a.z_stride, a.C, scratch);
  const Softmax<T> p(static_cast<const T*>(a.x) + row * a.x_stride, a.S, scratch + 2 * kMaxWarps);
  const T* g = static_cast<const T*>(args.dout) + row * a.S;
  float t[1] = {0.0f};
#pragma unroll 1
  for (int64_t s = threadIdx.x; s < a.S; s += blockDim.x) t[0] += to_float(g[s]) * p(s) * q(parent_of(a, s));
  block_sum(t, scratch + kHierarchyProbsScratch);
  T* dx = static_cast<T*>(args.dx) + row * a.S;
#pragma unroll 1
  for (int64_t s = threadIdx.x; s < a.S; s += blockDim.x)
    dx[s] = from_float<T>(p(s) * (to_float(g[s]) * q(parent_of(a, s)) - t[0]));
  T* dz = static_cast<T*>(args.dz) + row * a.C;
#pragma unroll 1
  for (int64_t c = threadIdx.x; c < a.C; c += blockDim.x) {
    float sum = 0.0f;
    const int64_t end = args.first[c + 1];
#pragma unroll 1
    for (int64_t i = args.first[c]; i < end; ++i) sum += to_float(g[args.order[i]]) * p(args.order[i]);
    dz[c] = from_float<T>(q(c) * (sum - t[0]));
  }
}

#define HIERARCHY_PROBS_TYPES(M, ...) M(f32, float, __VA_ARGS__) M(bf16, bf16, __VA_ARGS__) M(f16, f16, __VA_ARGS__)
#define HIERARCHY_PROBS_INSTANCE(suffix, T, ...)                                                \
  extern "C" __global__ void __launch_bounds__(512, 1)                                          \
      hierarchy_probs_##suffix(const __grid_constant__ HierarchyProbsArgs a) {                  \
    hierarchy_probs_body<T>(a);                                                                 \
  }                                                                                             \
  extern "C" __global__ void __launch_bounds__(512, 1)                                          \
      hierarchy_probs_backward_##suffix(const __grid_constant__ HierarchyProbsBackwardArgs a) { \
    hierarchy_probs_backward_body<T>(a);                                                        \
  }
HIERARCHY_PROBS_TYPES(HIERARCHY_PROBS_INSTANCE, )

#define HIERARCHY_PROBS_NAME(suffix, T, X, name) X(name##_##suffix)
#define HIERARCHY_PROBS_KERNELS(X)                                \
  HIERARCHY_PROBS_TYPES(HIERARCHY_PROBS_NAME, X, hierarchy_probs) \
  HIERARCHY_PROBS_TYPES(HIERARCHY_PROBS_NAME, X, hierarchy_probs_backward)
#define HIERARCHY_PROBS_PLANS(X) \
  X(hierarchy_probs, HierarchyProbsArgs) X(hierarchy_probs_backward, HierarchyProbsBackwardArgs)

}  // namespace prestissimo::cuda
