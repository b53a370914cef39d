// SPDX-License-Identifier: Apache-2.0
// y[t][c] = bias[c] + sum_k weight[c][k] x[t + k dilation - padding][c], zeros outside x
//
// Backward: dx[s][c] = sum_k weight[c][k] dy[s + padding - k dilation][c],
// dweight[c][k] = sum_{b,t} dy[t][c] x[t + k dilation - padding][c],  dbias[c] = sum_{b,t} dy[t][c]
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

constexpr int64_t kMostTaps = 7;  // of a kernel

// out[t] = bias + sum_k weight[k] in[t + offset + k step]: the forward pass and, with negative steps, dx.
struct DepthwiseConv1dArgs {
  RowView in;                 // [B][time_in][C]
  const void *weight, *bias;  // [C][taps] and [C] or null, contiguous
  RowOutput out;              // [B][time][C]
  int64_t batch, time_in, time, channels, taps, offset, step;
  DType dtype;
};

// `partial`: sums 0 ... taps - 1 of dweight, sum `taps` of dbias (rows.h).
struct DepthwiseConv1dWeightArgs {
  RowView dy, x;          // [B][time][C] and [B][time_in][C]
  void *dweight, *dbias;  // [C][taps] and [C], contiguous
  float* partial;         // [taps + 1][B][time_blocks(time)][C]
  int64_t batch, time_in, time, channels, taps, offset, step;
  DType dtype;
};

namespace cuda {
void depthwise_conv1d(const DepthwiseConv1dArgs&, Stream);
void depthwise_conv1d_weight(const DepthwiseConv1dWeightArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(depthwise_conv1d, DepthwiseConv1dArgs)
PRESTISSIMO_CPU_KERNEL(depthwise_conv1d_weight, DepthwiseConv1dWeightArgs)
