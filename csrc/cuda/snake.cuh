// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/snake.h.
#pragma once
#include "../ops/snake.h"
#include "angles.cuh"
#include "column_sums.cuh"
#include "math.cuh"
#include "reduce.cuh"

namespace prestissimo::cuda {

constexpr int kSnakeThreads = 256;  // that share the pieces of a row

// In the order of SNAKE_KERNELS: values, gradients by columns and by rows for each vector width, then the sums by type.
inline bool vectorised(const SnakeShape& s, const RowView& x, const RowView& dy, const RowOutput& y, const void* alpha,
                       const void* beta) {
  const int64_t n = 16 / item_size(s.dtype);
  const bool vectors = s.channel_is_row || (aligned_16(alpha) && aligned_16(beta));
  return s.columns % n == 0 && vectors && aligned_rows(x, n) && aligned_rows(dy, n) && aligned_rows(y, n);
}
inline LaunchPlan plan(const SnakeArgs& a) {
  const SnakeShape& s = a.shape;
  const bool vectors = vectorised(s, a.x, {}, a.y, a.alpha, a.beta);
  LaunchPlan p;
  add_elementwise(p, "snake", vector_index(s.dtype, vectors), s.batch * s.rows, s.columns,
                  vectors ? 16 / item_size(s.dtype) : 1);
  return p;
}
inline LaunchPlan plan(const SnakeBackwardArgs& a) {
  const char* op = "snake_backward";
  const SnakeShape& s = a.shape;
  check_channels(op, s.columns);
  const bool vectors = vectorised(s, a.x, a.dy, a.dx, a.alpha, a.beta);
  const int64_t n = vectors ? 16 / item_size(s.dtype) : 1, C = channels_of(s);
  LaunchPlan p;
  if (s.channel_is_row)
    p.add(op, 12 + vector_index(s.dtype, vectors), s.batch * s.rows * sum_blocks(s), kSnakeThreads);
  else
    p.add(op, 6 + vector_index(s.dtype, vectors), ceil_div(C, kWarpSize * n) * s.batch * sum_blocks(s), kColumnThreads);
  if (a.partial) p.add(op, 18 + type_index(s.dtype), 2 * ceil_div(C, kWarpSize), kColumnThreads);
  return p;
}
inline const SnakeArgs& parameters(const SnakeArgs& a) { return a; }
inline const SnakeBackwardArgs& parameters(const SnakeBackwardArgs& a) { return a; }

// a and 1 / b' of V channels from `channel` on, or of one channel V times.
template <class T, int V>
PRESTISSIMO_DEVICE void snake_constants(const void* alpha, const void* beta, const SnakeShape& s, int64_t channel,
                                        float (&a)[V], float (&inverse)[V]) {
  const T *p = static_cast<const T*>(alpha) + channel, *q = static_cast<const T*>(beta) + channel;
  if (s.channel_is_row) {
#pragma unroll
    for (int i = 0; i < V; ++i) a[i] = to_float(*p), inverse[i] = to_float(*q);
  } else {
    load(p, a);
    load(q, inverse);
  }
  const float epsilon = to_float(from_float<T>(1e-9f));  // float16 has none so small
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (s.log_scale) a[i] = exponential(a[i]), inverse[i] = exponential(inverse[i]);
    inverse[i] = 1.0f / (inverse[i] + epsilon);
  }
}

template <class T, int V>
PRESTISSIMO_DEVICE void snake_values(const SnakeArgs& args) {
  const SnakeShape& s = args.shape;
  const RowPlace at(s.columns, s.rows, V);
  if (at.c >= static_cast<int>(s.columns)) return;
  float a[V], inverse[V], x[V];
  snake_constants<T>(args.alpha, args.beta, s, s.channel_is_row ? at.t : at.c, a, inverse);
  load(row_of<T>(args.x, at.b, at.t) + at.c, x);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float sine, cosine;
    sin_cos(a[i] * x[i], sine, cosine);
    x[i] = __fmaf_rn(sine * sine, inverse[i], x[i]);
  }
  store(row_of<T>(args.y, at.b, at.t) + at.c, x);
}

// dx in place of dy, and the terms of both sums added to theirs.
template <int V>
PRESTISSIMO_DEVICE void snake_gradient(const float (&x)[V], float (&d)[V], const float (&a)[V],
                                       const float (&inverse)[V], float (&dalpha)[V], float (&dbeta)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float sine, cosine;
    sin_cos(a[i] * x[i], sine, cosine);
    const float twice = 2.0f * sine * cosine * inverse[i], part = sine * inverse[i];
    dalpha[i] = __fmaf_rn(d[i] * x[i], twice, dalpha[i]);
    dbeta[i] = __fmaf_rn(d[i] * part, -part, dbeta[i]);
    d[i] = __fmaf_rn(d[i], a[i] * twice, d[i]);
  }
}

// Channels last: a block of kTimeBlock rows.
template <class T, int V>
PRESTISSIMO_DEVICE void snake_columns(const SnakeBackwardArgs& args) {
  SHARED_ARRAY(float, tile, (kColumnGroups * LaneRow<V>::kFloats));
  const SnakeShape& s = args.shape;
  const int C = static_cast<int>(s.columns);
  const ColumnPlace<V> at(C, s.rows);
  float dalpha[V] = {}, dbeta[V] = {};
  if (at.c < C) {
    float a[V], inverse[V];
    snake_constants<T>(args.alpha, args.beta, s, at.c, a, inverse);
    for (int64_t t = at.begin; t < at.end; t += kColumnGroups) {
      float x[V], d[V];
      load(row_of<T>(args.x, at.b, t) + at.c, x);
      load(row_of<T>(args.dy, at.b, t) + at.c, d);
      snake_gradient(x, d, a, inverse, dalpha, dbeta);
      if (args.dx.data) store(row_of<T>(args.dx, at.b, t) + at.c, d);
    }
  }
  if (!args.partial) return;
  const int64_t blocks = blocks_of(s.rows);
  float* const out = args.partial + (at.b * blocks + at.block) * C + at.first;
  add_groups(at, dalpha, tile, out, C);
  add_groups(at, dbeta, tile, out + s.batch * blocks * C, C);
}

// Time last: kColumnBlock elements of the row of a channel.
template <class T, int V>
PRESTISSIMO_DEVICE void snake_rows(const SnakeBackwardArgs& args) {
  SHARED_ARRAY(float, scratch, (2 * kMaxWarps));
  const SnakeShape& s = args.shape;
  const uint32_t blocks = static_cast<uint32_t>((s.columns + kColumnBlock - 1) / kColumnBlock);
  const uint32_t row = blockIdx.x / blocks, block = blockIdx.x % blocks;
  const int64_t b = row / static_cast<uint32_t>(s.rows), c = row % static_cast<uint32_t>(s.rows);
  const int64_t first = block * kColumnBlock;
  const int64_t end = first + kColumnBlock < s.columns ? first + kColumnBlock : s.columns;
  float a[V], inverse[V], dalpha[V] = {}, dbeta[V] = {};
  snake_constants<T>(args.alpha, args.beta, s, c, a, inverse);
  for (int64_t i = first + threadIdx.x * V; i < end; i += kSnakeThreads * V) {
    float x[V], d[V];
    load(row_of<T>(args.x, b, c) + i, x);
    load(row_of<T>(args.dy, b, c) + i, d);
    snake_gradient(x, d, a, inverse, dalpha, dbeta);
    if (args.dx.data) store_global(row_of<T>(args.dx, b, c) + i, d);
  }
  if (!args.partial) return;
  float sums[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < V; ++i) {
    sums[0] += dalpha[i];
    sums[1] += dbeta[i];
  }
  block_sum(sums, scratch);
  if (threadIdx.x > 0) return;
  const int64_t at = (b * blocks + block) * s.rows + c;
  args.partial[at] = sums[0];
  args.partial[s.batch * blocks * s.rows + at] = sums[1];
}

template <class T>
PRESTISSIMO_DEVICE void snake_sums(const SnakeBackwardArgs& args) {
  SHARED_ARRAY(float, tile, kColumnThreads);
  const SnakeShape& s = args.shape;
  const int C = static_cast<int>(s.channel_is_row ? s.rows : s.columns);
  const uint32_t tiles = (C + kWarpSize - 1) / kWarpSize;
  const bool beta = blockIdx.x / tiles > 0;
  const int c = static_cast<int>(blockIdx.x % tiles) * kWarpSize + threadIdx.x % kWarpSize;
  const int64_t blocks = s.channel_is_row ? (s.columns + kColumnBlock - 1) / kColumnBlock : blocks_of(s.rows);
  const int64_t rows = s.batch * blocks;
  float sum = add_rows(args.partial + (beta ? rows * C : 0), rows, C, c, tile);
  if (threadIdx.x >= kWarpSize || c >= C) return;
  if (s.log_scale) sum *= exponential(to_float(static_cast<const T*>(beta ? args.beta : args.alpha)[c]));
  static_cast<T*>(beta ? args.dbeta : args.dalpha)[c] = from_float<T>(sum);
}

// One block a multiprocessor: else ptxas saves registers on sm_100 until it spills.
#define SNAKE_VECTORS(suffix, T, V, ...)                                    \
  extern "C" __global__ void __launch_bounds__(kElementwiseThreads, 1)      \
      snake_values_##suffix(const __grid_constant__ SnakeArgs a) {          \
    snake_values<T, V>(a);                                                  \
  }                                                                         \
  extern "C" __global__ void __launch_bounds__(kColumnThreads, 1)           \
      snake_columns_##suffix(const __grid_constant__ SnakeBackwardArgs a) { \
    snake_columns<T, V>(a);                                                 \
  }                                                                         \
  extern "C" __global__ void __launch_bounds__(kSnakeThreads, 1)            \
      snake_rows_##suffix(const __grid_constant__ SnakeBackwardArgs a) {    \
    snake_rows<T, V>(a);                                                    \
  }
#define SNAKE_SUMS(suffix, T, V, ...)                                    \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)           \
      snake_sums_##suffix(const __grid_constant__ SnakeBackwardArgs a) { \
    snake_sums<T>(a);                                                    \
  }
FOR_VECTORS(SNAKE_VECTORS)
FOR_TYPES(SNAKE_SUMS)

#define SNAKE_NAME(suffix, T, V, X, phase) X(snake_##phase##_##suffix)
#define SNAKE_KERNELS(X)              \
  FOR_VECTORS(SNAKE_NAME, X, values)  \
  FOR_VECTORS(SNAKE_NAME, X, columns) \
  FOR_VECTORS(SNAKE_NAME, X, rows)    \
  FOR_TYPES(SNAKE_NAME, X, sums)
#define SNAKE_PLANS(X) X(snake, SnakeArgs) X(snake_backward, SnakeBackwardArgs)

}  // namespace prestissimo::cuda
