// SPDX-License-Identifier: Apache-2.0
// y = x + sin(a x)^2 / (b + 1e-9),  a = alpha, b = beta, or their exponentials (log_scale), one of each a channel
//
// Backward: dx = dy (1 + a sin(2 a x) / b'),  b' = b + 1e-9,
// dalpha = sum dy x sin(2 a x) / b' (times a),  dbeta = -sum dy sin(a x)^2 / b'^2 (times b)   (log_scale)
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

// [B][rows][columns]: a channel is a column (channels last in memory), or a row.
struct SnakeShape {
  int64_t batch, rows, columns;
  bool channel_is_row, log_scale;
  DType dtype;
};
inline int64_t channels_of(const SnakeShape& s) { return s.channel_is_row ? s.rows : s.columns; }
// Where the channel is the row, sums over time run over blocks of columns instead of blocks of rows.
constexpr int64_t kColumnBlock = 4096;
inline int64_t sum_blocks(const SnakeShape& s) {
  return s.channel_is_row ? (s.columns + kColumnBlock - 1) / kColumnBlock : time_blocks(s.rows);
}

struct SnakeArgs {
  RowView x;
  const void *alpha, *beta;  // [C]
  RowOutput y;
  SnakeShape shape;
};

struct SnakeBackwardArgs {
  RowView dy, x;
  const void *alpha, *beta;
  RowOutput dx;          // data null when not wanted
  void *dalpha, *dbeta;  // [C], both null when neither is wanted
  float* partial;        // [2][B][sum_blocks][C]
  SnakeShape shape;
};

namespace cuda {
void snake(const SnakeArgs&, Stream);
void snake_backward(const SnakeBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(snake, SnakeArgs)
PRESTISSIMO_CPU_KERNEL(snake_backward, SnakeBackwardArgs)
