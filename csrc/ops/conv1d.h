// SPDX-License-Identifier: Apache-2.0
// y[t][o] = bias[o] + sum_{k, c} weight[o][k C + c] s(x[t + k dilation - padding][c]) + residual[t][o]
//
// zeros outside x; s is the snake of its channel (snake.h), rounded to x's type, or nothing. Products and packings are
// those of linear.h. A transposed convolution of stride r is one, too: its O are the r outputs between two steps of x.
#pragma once
#include "pack_linear.h"
#include "rows.h"

namespace prestissimo {

struct Conv1dArgs {
  RowView x;           // [B][time_in][C]
  const void* weight;  // [O][taps C], or packed
  int64_t weight_stride_n, weight_stride_k;
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
