// SPDX-License-Identifier: Apache-2.0
// Formula and workspace: ops/linear.h. The products are cuBLASLt's (linear.cu); int8 is what stands around them: rows
// of x to int8 before, integer sums to y behind. The plan holds both launches.
#pragma once
#include "../ops/linear.h"
#include "reduce.cuh"
#include "vec.cuh"

namespace prestissimo::cuda {

constexpr uint32_t kLinearThreads = 256;

inline int linear_kernel(DType t, int phase) {
  return 2 * (t == DType::float32 ? 0 : t == DType::bfloat16 ? 1 : 2) + phase;
}

inline LaunchPlan plan(const LinearArgs& a) {
  LaunchPlan p;
  if (a.packing != Packing::int8) return p;
  p.add("linear", linear_kernel(a.dtype, 0), a.M, kLinearThreads);
  p.add("linear", linear_kernel(a.dtype, 1), a.M * ceil_div(a.N, 4 * kLinearThreads), kLinearThreads);
  return p;
}
// What both kernels get.
struct LinearParameters {
  LinearArgs args;
  LinearWorkspace at;
};
inline LinearParameters parameters(const LinearArgs& a) { return {a, linear_workspace(a)}; }

// A block takes a row: its largest magnitude, then its values, x * (127 / largest) rounded to nearest even. Where a
// value is not finite the row's scale is NaN and its values are 0; infinity stands for NaN in the maximum, which would
// lose it.
template <class T>
PRESTISSIMO_DEVICE void linear_quantize(const LinearParameters& p) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  const LinearArgs& a = p.args;
  const LinearWorkspace& w = p.at;
  const int64_t m = blockIdx.x;
  const T* x = static_cast<const T*>(a.x) + m * a.x_stride;
  const float infinity = __int_as_float(0x7f800000);
  float largest = 0.0f;
  for (int64_t k = threadIdx.x; k < a.K; k += kLinearThreads) {
    const float v = fabsf(to_float(x[k]));
    largest = fmaxf(largest, v == v ? v : infinity);
  }
  largest = block_max(largest, scratch);
  const bool finite = largest < infinity;
  const float by = finite ? fminf(127.0f / largest, 3.402823466e38f) : 0.0f;
  char* workspace = static_cast<char*>(a.workspace);
  if (threadIdx.x == 0)
    reinterpret_cast<float*>(workspace + w.scales_at)[m] = finite ? largest / 127.0f : __int_as_float(0x7fc00000);
  int8_t* out = reinterpret_cast<int8_t*>(workspace) + m * w.x_values;
  for (int64_t k = threadIdx.x; k < w.x_values; k += kLinearThreads)
    out[k] = static_cast<int8_t>(k < a.K && finite ? __float2int_rn(to_float(x[k]) * by) : 0);
}

// A block takes 1024 columns of a row.
template <class T>
PRESTISSIMO_DEVICE void linear_scale(const LinearParameters& p) {
  const LinearArgs& a = p.args;
  const LinearWorkspace& w = p.at;
  const uint32_t chunks = static_cast<uint32_t>((a.N + 4 * kLinearThreads - 1) / (4 * kLinearThreads));
  const int64_t m = blockIdx.x / chunks, first = static_cast<int64_t>(blockIdx.x % chunks) * 4 * kLinearThreads;
  const char* workspace = static_cast<const char*>(a.workspace);
  const float row = reinterpret_cast<const float*>(workspace + w.scales_at)[m];
  const int32_t* sums = reinterpret_cast<const int32_t*>(workspace + w.sums_at) + m * w.sums;
  const char* weight = static_cast<const char*>(a.weight);
  const float* columns = reinterpret_cast<const float*>(weight + w.sums * w.x_values);
  const T* bias = static_cast<const T*>(a.bias);
  T* y = static_cast<T*>(a.y) + m * a.N;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t n = first + i * kLinearThreads + threadIdx.x;
    if (n >= a.N) return;
    const float v = static_cast<float>(sums[n]) * row * columns[n];
    y[n] = from_float<T>(bias ? v + to_float(bias[n]) : v);
  }
}

#define LINEAR_KERNEL(suffix, T)                                             \
  extern "C" __global__ void __launch_bounds__(kLinearThreads)               \
      linear_quantize_##suffix(const __grid_constant__ LinearParameters p) { \
    linear_quantize<T>(p);                                                   \
  }                                                                          \
  extern "C" __global__ void __launch_bounds__(kLinearThreads)               \
      linear_scale_##suffix(const __grid_constant__ LinearParameters p) {    \
    linear_scale<T>(p);                                                      \
  }
LINEAR_KERNEL(f32, float)
LINEAR_KERNEL(bf16, bf16)
LINEAR_KERNEL(f16, f16)

// In the order of linear_kernel.
#define LINEAR_KERNELS(X) \
  X(linear_quantize_f32)  \
  X(linear_scale_f32) X(linear_quantize_bf16) X(linear_scale_bf16) X(linear_quantize_f16) X(linear_scale_f16)
#define LINEAR_PLANS(X) X(linear, LinearArgs)

}  // namespace prestissimo::cuda
