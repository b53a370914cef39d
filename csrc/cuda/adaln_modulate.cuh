// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "adaln_rows.cuh"

namespace prestissimo::cuda {

// One block a multiprocessor is enough to ask for: without it ptxas saves registers on sm_100 and sm_120 until it
// spills.
#define ADALN_MODULATE_ROWS(suffix, T, V, ...)                                                              \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                                              \
      adaln_modulate_rows_##suffix(const __grid_constant__ AdalnModulateArgs a) {                           \
    adaln_modulate_rows<T, V>(a);                                                                           \
  }                                                                                                         \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                                              \
      adaln_modulate_backward_rows_##suffix(const __grid_constant__ AdalnModulateBackwardParameters a) {    \
    adaln_modulate_backward_rows<T, V>(a);                                                                  \
  }                                                                                                         \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                                              \
      adaln_modulate_backward_columns_##suffix(const __grid_constant__ AdalnModulateBackwardParameters a) { \
    adaln_modulate_backward_columns<T, T, V>(a);                                                            \
  }
#define ADALN_MODULATE_SUMS(suffix, T, V, ...)                                                           \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                                           \
      adaln_modulate_backward_sums_##suffix(const __grid_constant__ AdalnModulateBackwardParameters a) { \
    adaln_modulate_backward_sums<T>(a, blockIdx.x);                                                      \
  }
FOR_VECTORS(ADALN_MODULATE_ROWS)
FOR_TYPES(ADALN_MODULATE_SUMS)

// Every kernel by name, in the order of adaln_modulate_kernel(); every plan by op.
#define ADALN_MODULATE_NAME(suffix, T, V, X, phase) X(phase##_##suffix)
#define ADALN_MODULATE_KERNELS(X)                                      \
  FOR_VECTORS(ADALN_MODULATE_NAME, X, adaln_modulate_rows)             \
  FOR_VECTORS(ADALN_MODULATE_NAME, X, adaln_modulate_backward_rows)    \
  FOR_VECTORS(ADALN_MODULATE_NAME, X, adaln_modulate_backward_columns) \
  FOR_TYPES(ADALN_MODULATE_NAME, X, adaln_modulate_backward_sums)
#define ADALN_MODULATE_PLANS(X) \
  X(adaln_modulate, AdalnModulateArgs) X(adaln_modulate_backward, AdalnModulateBackwardArgs)

}  // namespace prestissimo::cuda
