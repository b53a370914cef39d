// SPDX-License-Identifier: Apache-2.0
// Backward of info_nce: the tiles' logits again, their gradients without the weight dL / n, which the rows of da and db
// are multiplied by when they are finished: in float16 e^(x - lse) / n would fall below the smallest number. For its
// sake a power of two, too, goes in and comes out: with it the largest scale / (|a_i| |b_j|) lies below 2^14, and |dx|
// is at most 2; without it short rows overflow. Rows of zeros, whose factor is scale / kNormEps, are stored with the
// largest factor of the others, and get the rest of theirs when they are finished.
#pragma once
#include "info_nce_pairs.cuh"
#include "math.cuh"

namespace prestissimo::cuda {

// e^(x - lse) - 1 from the exact x - lse: where a positive stands out, its gradient keeps its digits.
PRESTISSIMO_DEVICE float positive_gradient(const InfoNceArgs& a, int64_t i, int64_t j, float logit) {
  const float of_row = expm1f(static_cast<float>(static_cast<double>(logit) - a.row_lse[i]));
  if (!a.column_lse) return of_row;
  return of_row + expm1f(static_cast<float>(static_cast<double>(logit) - a.column_lse[j]));
}

// Of a row's factor, what float16 gradients are stored with, at most `most`; what was left out is at least 1.
template <class T>
PRESTISSIMO_DEVICE float stored(float factor, float most) {
  if constexpr (std::is_same_v<T, f16>)
    return fmaxf(fminf(factor, most), -most);
  else
    return factor;
}
template <class T>
PRESTISSIMO_DEVICE float left_out(float factor, float most) {
  if constexpr (std::is_same_v<T, f16>)
    return fmaxf(fabsf(factor) / most, 1.0f);
  else
    return 1.0f;
}

template <class T>
PRESTISSIMO_DEVICE void info_nce_gradient(const InfoNceParameters& p) {
  SHARED_ARRAY(unsigned char, shared, kProductShared);
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  const InfoNceArgs& a = p.a;
  const int block = static_cast<int>(blockIdx.x);
  const int64_t in_strip = int64_t{block / p.pairs.n_tiles} * kTileRows, row = p.pairs.first + in_strip,
                column = int64_t{block % p.pairs.n_tiles} * kTileColumns;
  TileProduct<T, Major::depth, Major::depth> x;
  x.run(operand<Major::depth, T>(a.a, a.a_stride, a.M, a.E), row, operand<Major::depth, T>(a.b, a.b_stride, a.N, a.E),
        column, shared);
  const TilePlace place(a, row, column);
  const bool symmetric = a.form == Contrast::symmetric, sigmoid_form = a.form == Contrast::sigmoid;
  const bool some_left_out = a.mask || a.a_group;
  const float bias = a.bias ? *a.bias : 0.0f, power = p.weight[1], row_most = p.weight[3], column_most = p.weight[4];
  float sums[2] = {0.0f, 0.0f};  // of dx (x - bias) and of dx
  const int64_t left = p.pairs.rows - in_strip;
  const int rows = left < kTileRows ? static_cast<int>(left) : kTileRows;
  auto* stage = reinterpret_cast<float*>(shared);
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    if (half) __syncthreads();
    x.stage(half, stage);
    __syncthreads();
    const int64_t at = column + half * kStageColumns;
    const int staged = static_cast<int>(threadIdx.x) % kStageColumns, c = half * kStageColumns + staged;
    const bool there = c < place.columns;
    const float column_factor = there ? p.column_factor[column + c] : 0.0f,
                column_lse = there && symmetric ? p.column_lse[column + c] : INFINITY,
                column_stored = stored<T>(column_factor, column_most);
#pragma unroll 1
    for (int r = static_cast<int>(threadIdx.x) / kStageColumns; r < rows; r += kProductThreads / kStageColumns) {
      float& v = stage[r * kStagePitch + staged];
      const int64_t i = row + r;
      if (!there || (some_left_out && !takes_part(a, i, column + c))) {
        v = 0.0f;
        continue;
      }
      const float row_factor = p.row_factor[i], logit = __fmaf_rn(v, row_factor * column_factor, bias);
      float dx;
      if (sigmoid_form)
        dx = c == r + place.diagonal ? -sigmoid(-logit) : sigmoid(logit);
      else if (c == r + place.diagonal)
        dx = positive_gradient(a, i, column + c, logit);
      else
        dx = expf(logit - p.row_lse[i]) + expf(logit - column_lse);
      sums[0] += dx * (logit - bias);
      sums[1] += dx;
      v = dx * (stored<T>(row_factor, row_most) * column_stored * power);
    }
    __syncthreads();
    store_staged(stage, static_cast<T*>(p.pairs.g) + in_strip * p.pairs.pitch + at, p.pairs.pitch, rows,
                 p.pairs.pitch - at);
  }
  add_tile_sums(p.pairs, sums, scratch);
}

// da_i = (u - â <â, u>) / |a_i| where rows are normalised, u without its 1 / |a_i| in `sums`.
template <class T>
PRESTISSIMO_DEVICE void finish_gradient_row(const InfoNceParameters& p, const T* x, float inverse_length, float rest,
                                            const float* sums, int parts, int64_t plane, T* out) {
  const InfoNceArgs& a = p.a;
  float along = 0.0f;
  if (a.normalize && inverse_length < 1.0f / kNormEps) {
    for (int64_t e = threadIdx.x % kWarpSize; e < a.E; e += kWarpSize) {
      float v = sums[e];
      for (int part = 1; part < parts; ++part) v += sums[part * plane + e];
      along += to_float(x[e]) * v;
    }
    along = inverse_length * inverse_length * warp_sum(along);
  }
  const float by = *a.scale == 0.0f ? 0.0f : p.weight[0] * p.weight[2] * rest;
  const bool normalize = a.normalize;
  finish_row(sums, parts, plane, a.E, out,
             [&](int64_t e, float v) { return (normalize ? v - to_float(x[e]) * along : v) * by; });
}

template <class T>
PRESTISSIMO_DEVICE void info_nce_finish_da(const InfoNceParameters& p) {
  const InfoNceArgs& a = p.a;
  const int64_t in_strip = int64_t{blockIdx.x} * kFinishRows + threadIdx.x / kWarpSize, i = p.pairs.first + in_strip;
  if (in_strip >= p.pairs.rows) return;
  const float factor = p.row_factor[i];
  finish_gradient_row(p, static_cast<const T*>(a.a) + i * a.a_stride, factor / nonzero_scale(a),
                      left_out<T>(factor, p.weight[3]), p.pairs.dx + in_strip * a.E, static_cast<int>(kDepthParts),
                      p.pairs.rows * a.E, static_cast<T*>(p.da) + i * a.E);
}
template <class T>
PRESTISSIMO_DEVICE void info_nce_finish_db(const InfoNceParameters& p) {
  const InfoNceArgs& a = p.a;
  const int64_t j = int64_t{blockIdx.x} * kFinishRows + threadIdx.x / kWarpSize;
  if (j >= a.N) return;
  const float factor = p.column_factor[j];
  finish_gradient_row(p, static_cast<const T*>(a.b) + j * a.b_stride, factor, left_out<T>(factor, p.weight[4]),
                      p.pairs.dy + j * a.E, 1, 0, static_cast<T*>(p.db) + j * a.E);
}

// The largest of n factors for every thread; without those of rows that take no part, and without those of rows too
// short for a length, unless there are no others. Rows that only a mask leaves out are looked for in float16 alone.
PRESTISSIMO_DEVICE float largest_factor(const float* factors, const int64_t* group, int64_t n, float of_shortest,
                                        float* scratch) {
  float most = 0.0f;
  for (int64_t i = threadIdx.x; i < n; i += kProductThreads) {
    const float v = fabsf(factors[i]);
    if (v < 0.5f * of_shortest && !(group && group[i] < 0)) most = fmaxf(most, v);
  }
  most = block_max(most, scratch);
  return most > 0.0f ? most : of_shortest;
}

PRESTISSIMO_DEVICE void info_nce_weight_body(const InfoNceParameters& p) {
  SHARED_ARRAY(float, scratch, 3 * kMaxWarps);
  float anchors[1] = {0.0f};
  for (int64_t i = threadIdx.x; i < p.a.M; i += kProductThreads)
    anchors[0] += takes_part(p.a, i, i + p.a.offset) ? 1.0f : 0.0f;
  block_sum(anchors, scratch);
  const float of_row =
      largest_factor(p.row_factor, p.a.a_group, p.a.M, fabsf(nonzero_scale(p.a)) / kNormEps, scratch + kMaxWarps);
  const float of_column = largest_factor(p.column_factor, p.a.b_group, p.a.N, 1.0f / kNormEps, scratch + 2 * kMaxWarps);
  if (threadIdx.x != 0) return;
  int field = __float_as_int(of_row * of_column) >> 23;  // the exponent's, so that neither power is subnormal
  field = field < 14 ? 14 : field > 254 ? 254 : field;
  p.weight[0] = *p.dloss / anchors[0] * (p.a.form == Contrast::symmetric ? 0.5f : 1.0f);
  p.weight[1] = __int_as_float((267 - field) << 23);
  p.weight[2] = __int_as_float((field - 13) << 23);
  p.weight[3] = of_row;
  p.weight[4] = of_column;
}

PRESTISSIMO_DEVICE void info_nce_numbers_body(const InfoNceParameters& p) {
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  float total[2];
  total_tile_sums(p.pairs.sums, p.sum_tiles, total, scratch);
  if (threadIdx.x != 0) return;
  *p.dscale = total[0] * *p.weight / nonzero_scale(p.a);
  *p.dbias = total[1] * *p.weight;
}

}  // namespace prestissimo::cuda
