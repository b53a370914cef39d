// SPDX-License-Identifier: Apache-2.0
// depthwise_conv1d where the steps of a channel are neighbours, on the CPU: rows of time in and out.
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

// out[t] = bias[c] + sum_k weight[c][k] in[t + offset + k step]
struct DepthwiseConv1dTimeArgs {
  RowView in;                 // [B][C][time_in], time_stride from a channel to the next
  const void *weight, *bias;  // [C][taps] and [C] or null, contiguous
  RowOutput out;              // [B][C][time]
  int64_t batch, time_in, time, channels, taps, offset, step;
  DType dtype;
};

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(depthwise_conv1d_time, DepthwiseConv1dTimeArgs)
