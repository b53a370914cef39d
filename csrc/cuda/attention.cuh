// SPDX-License-Identifier: Apache-2.0
// Kernels of attention; formula in ops/attention.h. bfloat16 and float16 go to the tensor cores.
#pragma once
#include "attention_backward.cuh"
#include "attention_floats.cuh"
#include "attention_forward.cuh"

namespace prestissimo::cuda {

// clang-format off
#define FOR_ATTENTION_TILES(M)                                                                                     \
  M(bf16_64, bf16, 64, false) M(bf16_64_differential, bf16, 64, true)                                              \
  M(bf16_128, bf16, 128, false) M(bf16_128_differential, bf16, 128, true)                                          \
  M(f16_64, f16, 64, false) M(f16_64_differential, f16, 64, true)                                                  \
  M(f16_128, f16, 128, false) M(f16_128_differential, f16, 128, true)
#define FOR_ATTENTION_GRADIENTS(M) M(bf16_64, bf16, 64) M(bf16_128, bf16, 128) M(f16_64, f16, 64) M(f16_128, f16, 128)
// clang-format on

#define INSTANCE(suffix, T, D, differential)                              \
  extern "C" __global__ void __launch_bounds__(kAttendThreads, 1)         \
      attention_##suffix(const __grid_constant__ AttentionParameters p) { \
    attention_tile<T, D, differential>(p);                                \
  }
FOR_ATTENTION_TILES(INSTANCE)
#undef INSTANCE
extern "C" __global__ void __launch_bounds__(kAttendThreads, 1)
    attention_f32(const __grid_constant__ AttentionParameters p) {
  attention_floats<false>(p);
}
extern "C" __global__ void __launch_bounds__(kAttendThreads, 1)
    attention_f32_differential(const __grid_constant__ AttentionParameters p) {
  attention_floats<true>(p);
}
#define INSTANCE(suffix, T, D)                                                        \
  extern "C" __global__ void __launch_bounds__(kAttendThreads, 1)                     \
      attention_dq_##suffix(const __grid_constant__ AttentionBackwardParameters p) {  \
    attention_dq<T, D>(p);                                                            \
  }                                                                                   \
  extern "C" __global__ void __launch_bounds__(kAttendThreads, 1)                     \
      attention_dkv_##suffix(const __grid_constant__ AttentionBackwardParameters p) { \
    attention_dkv<T, D>(p);                                                           \
  }
FOR_ATTENTION_GRADIENTS(INSTANCE)
#undef INSTANCE

// clang-format off
#define ATTENTION_KERNELS(X)                                                                                       \
  X(attention_bf16_64) X(attention_bf16_64_differential) X(attention_bf16_128) X(attention_bf16_128_differential)  \
  X(attention_f16_64) X(attention_f16_64_differential) X(attention_f16_128) X(attention_f16_128_differential)      \
  X(attention_f32) X(attention_f32_differential)                                                                   \
  X(attention_dq_bf16_64) X(attention_dq_bf16_128) X(attention_dq_f16_64) X(attention_dq_f16_128)                  \
  X(attention_dkv_bf16_64) X(attention_dkv_bf16_128) X(attention_dkv_f16_64) X(attention_dkv_f16_128)
// clang-format on
#define ATTENTION_PLANS(X) X(attention, AttentionArgs) X(attention_backward, AttentionBackwardArgs)

}  // namespace prestissimo::cuda
