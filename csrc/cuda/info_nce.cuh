// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/info_nce.h. Kernels of the forward, and all instances.
//
// Forward: the tiles' logits are reduced in registers, sums over rows and columns as a maximum and the sum of
// exponentials below it. A block takes a chunk of row tiles times a chunk of column tiles and keeps, for its rows and
// its columns, one such pair each in the workspace, which nobody else touches; the chunks are added in their order.
#pragma once
#include "info_nce_backward.cuh"

namespace prestissimo::cuda {

PRESTISSIMO_DEVICE float2 merged(float2 a, float2 b) {
  const float most = fmaxf(a.x, b.x);
  return make_float2(most, a.y * expf(a.x - most) + b.y * expf(b.x - most));
}

// Lanes whose numbers differ in these bits together; every one of them gets the same.
template <int kFirstBit, int kLastBit>
PRESTISSIMO_DEVICE float lanes_max(float v) {
#pragma unroll
  for (int bits = kFirstBit; bits <= kLastBit; bits *= 2) v = fmaxf(v, ptx::shuffle_xor(v, bits));
  return v;
}
template <int kFirstBit, int kLastBit>
PRESTISSIMO_DEVICE float lanes_sum(float v) {
#pragma unroll
  for (int bits = kFirstBit; bits <= kLastBit; bits *= 2) v += ptx::shuffle_xor(v, bits);
  return v;
}

// Pairs of a tile's rows in the four warps along the columns, of its columns in the two along the rows; logits of the
// positives, by row.
struct TilePairs {
  float2 row[4][kTileRows], column[2][kTileColumns];
  float positive[kTileRows];
};
static_assert(sizeof(TilePairs) <= kProductShared);

template <class Logits>
PRESTISSIMO_DEVICE void reduce_rows(const Logits& x, TilePairs& to) {
  const int warp = static_cast<int>(threadIdx.x / kWarpSize);
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float most = kLowestLogit, sum = 0.0f;
#pragma unroll
      for (int n = 0; n < 4; ++n) most = fmaxf(most, fmaxf(x.sum[m][n][2 * h], x.sum[m][n][2 * h + 1]));
      most = lanes_max<1, 2>(most);
#pragma unroll
      for (int n = 0; n < 4; ++n) sum += expf(x.sum[m][n][2 * h] - most) + expf(x.sum[m][n][2 * h + 1] - most);
      sum = lanes_sum<1, 2>(sum);
      if (threadIdx.x % 4 == 0) to.row[warp % 4][Logits::row_of(m, h)] = make_float2(most, sum);
    }
}
template <class Logits>
PRESTISSIMO_DEVICE void reduce_columns(const Logits& x, TilePairs& to) {
  const int warp = static_cast<int>(threadIdx.x / kWarpSize);
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      float most = kLowestLogit, sum = 0.0f;
#pragma unroll
      for (int m = 0; m < 4; ++m) most = fmaxf(most, fmaxf(x.sum[m][n][side], x.sum[m][n][2 + side]));
      most = lanes_max<4, 16>(most);
#pragma unroll
      for (int m = 0; m < 4; ++m) sum += expf(x.sum[m][n][side] - most) + expf(x.sum[m][n][2 + side] - most);
      sum = lanes_sum<4, 16>(sum);
      if (threadIdx.x % kWarpSize < 4) to.column[warp / 4][Logits::column_of(n, side)] = make_float2(most, sum);
    }
}

// Products to logits, -inf where a pair is left out and beyond the tile's end. Positives go to `positive` and count as
// left out; without it, for the sigmoid form, they change their sign.
template <class Products>
PRESTISSIMO_DEVICE void to_logits(const InfoNceParameters& p, Products& x, int64_t row, int64_t column,
                                  const TilePlace& place, float* positive) {
  const InfoNceArgs& a = p.a;
  const float bias = a.bias ? *a.bias : 0.0f;
  float of_column[4][2];
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int c = Products::column_of(n, side);
      of_column[n][side] = c < place.columns ? p.column_factor[column + c] : 0.0f;
    }
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = Products::row_of(m, h);
      const float of_row = r < place.rows ? p.row_factor[row + r] : 0.0f;
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const int c = Products::column_of(n, side);
          float& v = x.sum[m][n][2 * h + side];
          v = r < place.rows && c < place.columns ? __fmaf_rn(v, of_row * of_column[n][side], bias) : -INFINITY;
          if (c == r + place.diagonal && place.has_positive(r)) {
            if (positive) positive[r] = v;
            v = positive ? -INFINITY : -v;
          }
        }
    }
  if (!a.mask && !a.a_group) return;
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int r = Products::row_of(m, k >> 1), c = Products::column_of(n, k & 1);
        if (r < place.rows && c < place.columns && !takes_part(a, row + r, column + c)) x.sum[m][n][k] = -INFINITY;
      }
}

// The sum of ln(1 + e^x) over the elements that this thread takes of the whole tile.
template <class Products>
PRESTISSIMO_DEVICE float softplus_sum(const Products& x, float* stage) {
  float sum = 0.0f;
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    __syncthreads();
    x.stage(half, stage);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < kTileRows * kStageColumns; i += kProductThreads) {
      const float v = stage[i / kStageColumns * kStagePitch + i % kStageColumns];
      sum += fmaxf(v, 0.0f) + log1pf(expf(-fabsf(v)));
    }
  }
  return sum;
}

template <class T>
PRESTISSIMO_DEVICE void info_nce_tiles(const InfoNceParameters& p) {
  SHARED_ARRAY(unsigned char, shared, kProductShared);
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  const InfoNceArgs& a = p.a;
  const bool sigmoid_form = a.form == Contrast::sigmoid;
  const int block = static_cast<int>(blockIdx.x), row_chunk = block / p.column_chunks,
            column_chunk = block % p.column_chunks;
  const int first_row = row_chunk * p.row_tiles / p.row_chunks, last_row = (row_chunk + 1) * p.row_tiles / p.row_chunks,
            first_column = column_chunk * p.column_tiles / p.column_chunks,
            last_column = (column_chunk + 1) * p.column_tiles / p.column_chunks;
  auto& pairs = *reinterpret_cast<TilePairs*>(shared);
  float softplus[2] = {0.0f, 0.0f};
  TileProduct<T, Major::depth, Major::depth> x;
#pragma unroll 1
  for (int row_tile = first_row; row_tile < last_row; ++row_tile)
#pragma unroll 1
    for (int column_tile = first_column; column_tile < last_column; ++column_tile) {
      const int64_t row = int64_t{row_tile} * kTileRows, column = int64_t{column_tile} * kTileColumns;
      const TilePlace place(a, row, column);
      x.run(operand<Major::depth, T>(a.a, a.a_stride, a.M, a.E), row,
            operand<Major::depth, T>(a.b, a.b_stride, a.N, a.E), column, shared);
      to_logits(p, x, row, column, place, sigmoid_form ? nullptr : pairs.positive);
      if (sigmoid_form) {
        softplus[0] += softplus_sum(x, reinterpret_cast<float*>(shared));
        continue;
      }
      reduce_rows(x, pairs);
      if (a.column_lse) reduce_columns(x, pairs);
      __syncthreads();
      const int t = static_cast<int>(threadIdx.x % kTileRows);
      if (threadIdx.x < kTileRows) {
        if (t >= place.rows) continue;
        if (place.has_positive(t)) p.positive[row + t] = pairs.positive[t];
        const float2 sum = merged(merged(pairs.row[0][t], pairs.row[1][t]), merged(pairs.row[2][t], pairs.row[3][t]));
        float2* to = p.row_sums + column_chunk * a.M + row + t;
        *to = column_tile > first_column ? merged(*to, sum) : sum;
      } else if (a.column_lse && t < place.columns) {
        const float2 sum = merged(pairs.column[0][t], pairs.column[1][t]);
        float2* to = p.column_sums + row_chunk * a.N + column + t;
        *to = row_tile > first_row ? merged(*to, sum) : sum;
      }
    }
  if (!sigmoid_form) return;
  block_sum(softplus, scratch);
  if (threadIdx.x == 0) p.losses[p.finish_blocks + blockIdx.x] = make_float2(softplus[0], 0.0f);
}

// A row's or a column's log-sum-exp and what it adds to the loss. Sums leave positives out, so that a loss next to zero
// keeps its digits: lse - x = ln(1 + e^(others - x)). NaN where x is infinite, as in log-softmax.
PRESTISSIMO_DEVICE float finish_pair(const float2* sums, int64_t chunk_stride, int chunks, bool anchor,
                                     const float* positive, double* lse) {
  float2 e = make_float2(kLowestLogit, 0.0f);
  for (int c = 0; c < chunks; ++c) e = merged(e, sums[c * chunk_stride]);
  const double others = static_cast<double>(e.x) + static_cast<double>(logf(e.y));
  *lse = others;
  if (!anchor) return 0.0f;
  const float x = *positive, d = static_cast<float>(others - static_cast<double>(x));
  const float rest = x == INFINITY ? NAN : log1pf(expf(-fabsf(d)));
  *lse = (d > 0.0f ? others : static_cast<double>(x)) + static_cast<double>(rest);
  return fmaxf(d, 0.0f) + rest;
}

PRESTISSIMO_DEVICE void info_nce_finish_body(const InfoNceParameters& p) {
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  const InfoNceArgs& a = p.a;
  const int64_t t = int64_t{blockIdx.x} * kProductThreads + threadIdx.x;
  float loss[2] = {0.0f, 0.0f};  // and how many anchors
  if (t < a.M) {
    const bool anchor = takes_part(a, t, t + a.offset);
    loss[1] = anchor ? 1.0f : 0.0f;
    if (a.row_lse) loss[0] = finish_pair(p.row_sums + t, a.M, p.column_chunks, anchor, p.positive + t, a.row_lse + t);
  } else if (t < a.M + a.N && a.column_lse) {
    const int64_t j = t - a.M;
    const bool anchor = takes_part(a, j, j);
    loss[1] = anchor ? 1.0f : 0.0f;
    loss[0] = finish_pair(p.column_sums + j, a.N, p.row_chunks, anchor, p.positive + j, a.column_lse + j);
  }
  block_sum(loss, scratch);
  if (threadIdx.x == 0) p.losses[blockIdx.x] = make_float2(loss[0], loss[1]);
}

PRESTISSIMO_DEVICE void info_nce_total_body(const InfoNceParameters& p) {
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  const int blocks = p.finish_blocks + (p.a.form == Contrast::sigmoid ? p.row_chunks * p.column_chunks : 0);
  float total[2];
  total_tile_sums(&p.losses->x, blocks, total, scratch);
  if (threadIdx.x == 0) *p.a.loss = total[0] / total[1];
}

#define INFO_NCE_KERNEL(name, body)                                                                                 \
  extern "C" __global__ void __launch_bounds__(kProductThreads) name(const __grid_constant__ InfoNceParameters p) { \
    body;                                                                                                           \
  }
#define INFO_NCE_INSTANCE(suffix, T, ...)                              \
  INFO_NCE_KERNEL(info_nce_factors_##suffix, info_nce_factors<T>(p))   \
  INFO_NCE_KERNEL(info_nce_tiles_##suffix, info_nce_tiles<T>(p))       \
  INFO_NCE_KERNEL(info_nce_gradient_##suffix, info_nce_gradient<T>(p)) \
  INFO_NCE_KERNEL(info_nce_dx_##suffix, gradient_dx<T>(p.pairs))       \
  INFO_NCE_KERNEL(info_nce_dy_##suffix, gradient_dy<T>(p.pairs))       \
  INFO_NCE_KERNEL(info_nce_da_##suffix, info_nce_finish_da<T>(p))      \
  INFO_NCE_KERNEL(info_nce_db_##suffix, info_nce_finish_db<T>(p))
PRODUCT_TYPES(INFO_NCE_INSTANCE, )
INFO_NCE_KERNEL(info_nce_finish, info_nce_finish_body(p))
INFO_NCE_KERNEL(info_nce_total, info_nce_total_body(p))
INFO_NCE_KERNEL(info_nce_weight, info_nce_weight_body(p))
INFO_NCE_KERNEL(info_nce_numbers, info_nce_numbers_body(p))

// In the order of InfoNceKernel.
#define INFO_NCE_NAME(suffix, T, X, name) X(name##_##suffix)
#define INFO_NCE_KERNELS(X)                          \
  PRODUCT_TYPES(INFO_NCE_NAME, X, info_nce_factors)  \
  PRODUCT_TYPES(INFO_NCE_NAME, X, info_nce_tiles)    \
  PRODUCT_TYPES(INFO_NCE_NAME, X, info_nce_gradient) \
  PRODUCT_TYPES(INFO_NCE_NAME, X, info_nce_dx)       \
  PRODUCT_TYPES(INFO_NCE_NAME, X, info_nce_dy)       \
  PRODUCT_TYPES(INFO_NCE_NAME, X, info_nce_da)       \
  PRODUCT_TYPES(INFO_NCE_NAME, X, info_nce_db)       \
  X(info_nce_finish) X(info_nce_total) X(info_nce_weight) X(info_nce_numbers)
#define INFO_NCE_PLANS(X) X(info_nce, InfoNceArgs) X(info_nce_backward, InfoNceGradientPart)

}  // namespace prestissimo::cuda
