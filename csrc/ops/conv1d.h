// SPDX-License-Identifier: Apache-2.0
// y[t][o] = bias[o] + sum_{k, c} weight[o][k C + c] s(x[t + k dilation - padding][c]) + residual[t][o]
//
// zeros outside x; s is the snake of its channel (snake.h), rounded to x's type, or nothing. Products and packings are
// those of linear.h. A transposed convolution of stride r is one, too: its O are the r outputs between two steps of x,
// y[t][j][o] = bias[j O + o] + sum_{k, c} weight[c][o][j + (taps - 1 - k) r] s(x[t + k - padding][c]).
#pragma once
#include "pack_linear.h"
#include "rows.h"

namespace prestissimo {

struct Conv1dArgs {
  RowView x;           // [B][time_in][C]
  int64_t stride_c;    // of x's channels: 1, or x lies in rows of time and its time_stride is 1
  const void* weight;  // [O][C][kernel], or packed as [O][taps C]
  int64_t weight_stride_o, weight_stride_c, kernel;
  int64_t phases;  // the stride of a transposed convolution, which `outputs` has in it; 1
  bool transposed;
  const void* bias;          // [O] or null
  const void *alpha, *beta;  // [C], or null: no snake
  RowView residual;          // [B][time][O], data null where there is none
  RowOutput y;               // [B][time][O]
  int64_t batch, time_in, time, channels, outputs, taps, dilation, padding;
  bool log_scale;
  Packing packing;
  DType dtype;
};

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(conv1d, Conv1dArgs)
