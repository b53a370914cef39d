// SPDX-License-Identifier: Apache-2.0
// y = x weight^T + bias + lora_scale (x down^T) up^T
//
// x [M, K], weight [N, K] or packed (pack_linear.h), bias [N], down [R, K], up [N, R]. Products of the type of the
// packing, else of x (float16 as float32); sums in float32. int8: each row of x is rounded to int8 by its own scale,
// max|row| / 127, the integer sums are exact, and y = sum * scale of the row * scale of the weight's row. A row with
// infinities or NaN gives NaN.
//
// On the CPU a packed weight lies in panels, on a GPU in rows, and x must have its dtype unless that is int8.
//
// Backward, with the weight as it stands after rounding and no regard to the rounding of x:
// u = lora_scale dy up,  dx = dy weight + u down,  dweight = dy^T x,  dbias = sum of dy over rows,
// ddown = u^T x,  dup = lora_scale dy^T (x down^T)
#pragma once
#include "pack_linear.h"

namespace prestissimo {

struct LinearArgs {
  const void* x;  // rows contiguous
  int64_t x_stride;
  const void* weight;
  int64_t weight_stride_n, weight_stride_k;  // without packing
  const void* bias;                          // or null
  const void *down, *up;                     // contiguous, or both null
  void* y;                                   // contiguous
  void* workspace;                           // GPU: linear_workspace(a).bytes, aligned to 16
  int64_t M, N, K, rank;
  float lora_scale;
  Packing packing;
  DType dtype;  // of x, bias, down, up, y and of a weight that is not packed
};

// What a GPU keeps between its launches: x as int8 [M][x_values] and the scales of its rows, the integer sums
// [M][sums], x down^T [M][rank].
struct LinearWorkspace {
  int64_t x_values, sums;  // strides
  int64_t scales_at, sums_at, low_at, bytes;
};
inline LinearWorkspace linear_workspace(const LinearArgs& a) {
  const auto up = [](int64_t n) { return (n + 15) / 16 * 16; };
  LinearWorkspace w{};
  if (a.packing == Packing::int8) {
    w.x_values = row_values(Packing::int8, a.K), w.sums = row_count(Packing::int8, a.N);
    w.scales_at = a.M * w.x_values;
    w.sums_at = w.scales_at + up(a.M * 4);
    w.low_at = w.sums_at + a.M * w.sums * 4;
  }
  w.bytes = w.low_at + up(a.M * (a.down ? a.rank : 0) * item_size(a.dtype));
  return w;
}

struct LinearBackwardArgs {
  LinearArgs forward;                        // bias and y unused
  const void* dy;                            // contiguous
  void *dx, *dweight, *dbias, *ddown, *dup;  // contiguous; null when not wanted
};

namespace cuda {
void linear(const LinearArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(linear, LinearArgs)
PRESTISSIMO_CPU_KERNEL(linear_backward, LinearBackwardArgs)
