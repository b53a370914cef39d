// SPDX-License-Identifier: Apache-2.0
// What both directions of info_nce share: the launch plans, the workspace, and the logits of a tile of products.
#pragma once
#include "../ops/info_nce.h"
#include "product_gradients.cuh"

namespace prestissimo::cuda {

// Floats of the workspace: the sums over rows and columns in some chunks, up to kPairChunks, and what lies beside them;
// what lies beside the gradients (pairs.h).
constexpr int64_t kPairChunks = 32;
inline int64_t info_nce_floats(const InfoNceArgs& a, int64_t chunks) {
  return 2 * a.M + a.N + (a.M + a.N) / 128 + 2 * kPairChunks * kPairChunks + 64 + 2 * chunks * (a.M + a.N);
}
inline int64_t info_nce_gradient_floats(const InfoNceArgs& a) { return 2 * (a.M + a.N) + 32; }

struct InfoNceParameters {
  InfoNceArgs a;
  float *row_factor, *column_factor;  // scale / |a_i| and 1 / |b_j|, or scale and 1
  // forward
  float* positive;                 // logits
  float2 *row_sums, *column_sums;  // [column_chunks][M], [row_chunks][N]
  float2* losses;                  // of blocks: the sum and the number of anchors
  int row_tiles, column_tiles, row_chunks, column_chunks, finish_blocks;
  // backward
  const float* dloss;
  void *da, *db;
  float *dscale, *dbias;
  float *row_lse, *column_lse;  // infinite for what is no anchor
  float* weight;  // dloss over the number of anchors; the power of two that G is stored with, and its inverse; the
                  // largest factors of rows and of columns that float16 stores it with
  PairGradients pairs;
  int64_t sum_tiles;
};

using InfoNceGradientPart = GradientPartOf<InfoNceBackwardArgs>;

// In the order of INFO_NCE_KERNELS, each for three types.
enum InfoNceKernel : int {
  kInfoNceFactors = 0,
  kInfoNceTiles = 3,
  kInfoNceGradient = 6,
  kInfoNceDx = 9,
  kInfoNceDy = 12,
  kInfoNceDa = 15,
  kInfoNceDb = 18,
  kInfoNceFinish = 21,
  kInfoNceTotal,
  kInfoNceWeight,
  kInfoNceNumbers
};

inline int64_t info_nce_strip(const InfoNceBackwardArgs& b) {
  const InfoNceArgs& a = b.forward;
  return strip_rows("info_nce_backward", a.dtype, a.workspace_size, a.M, kPairTile, a.N, a.E,
                    info_nce_gradient_floats(a));
}

inline InfoNceParameters parameters(const InfoNceArgs& a) {
  InfoNceParameters p{};
  p.a = a;
  const int64_t each = 2 * (a.M + a.N), chunks = (a.workspace_size - info_nce_floats(a, 0)) / (each > 0 ? each : 1);
  if (chunks < 1)
    fail("info_nce", "workspace must have at least " + std::to_string(info_nce_floats(a, 1)) + " elements");
  const auto split = [&](int64_t tiles) { return static_cast<int>(std::min({chunks, tiles, kPairChunks})); };
  Carver memory(a.workspace);
  p.row_factor = memory.take(a.M), p.column_factor = memory.take(a.N), p.positive = memory.take(a.M);
  p.row_tiles = static_cast<int>(pair_tiles(a.M)), p.column_tiles = static_cast<int>(pair_tiles(a.N));
  p.row_chunks = split(p.row_tiles), p.column_chunks = split(p.column_tiles);
  p.row_sums = reinterpret_cast<float2*>(memory.take(2 * p.column_chunks * a.M));
  p.column_sums = reinterpret_cast<float2*>(memory.take(2 * p.row_chunks * a.N));
  p.finish_blocks = static_cast<int>(ceil_div(a.M + a.N, kProductThreads));
  p.losses = reinterpret_cast<float2*>(memory.take(0));
  return p;
}

inline LaunchPlan plan(const InfoNceArgs& a) {
  const char* op = "info_nce";
  const InfoNceParameters p = parameters(a);
  const int type = product_type(a.dtype);
  LaunchPlan plan;
  plan.add(op, kInfoNceFactors + type, ceil_div(a.M + a.N, kFinishRows), kProductThreads);
  plan.add(op, kInfoNceTiles + type, int64_t{p.row_chunks} * p.column_chunks, kProductThreads);
  plan.add(op, kInfoNceFinish, p.finish_blocks, kProductThreads);
  plan.add(op, kInfoNceTotal, 1, kProductThreads);
  return plan;
}

inline InfoNceParameters parameters(const InfoNceGradientPart& part) {
  const InfoNceBackwardArgs& b = part.args;
  InfoNceParameters p{};
  const InfoNceArgs& a = p.a = b.forward;
  Carver memory(a.workspace);
  p.row_factor = memory.take(a.M), p.column_factor = memory.take(a.N);
  p.row_lse = memory.take(a.M), p.column_lse = memory.take(a.N), p.weight = memory.take(5);
  p.dloss = b.dloss, p.da = b.da, p.db = b.db, p.dscale = b.dscale, p.dbias = b.dbias;
  p.pairs = pair_gradients(part, a.dtype, memory, kTileRows, a.N, a.E);
  p.pairs.x = a.a, p.pairs.x_stride = a.a_stride;
  p.pairs.y = a.b, p.pairs.y_stride = a.b_stride;
  p.sum_tiles = pair_tiles(part.strip) * p.pairs.n_tiles;
  return p;
}

inline LaunchPlan plan(const InfoNceGradientPart& part) {
  const char* op = "info_nce_backward";
  const InfoNceParameters p = parameters(part);
  const int type = product_type(p.a.dtype);
  LaunchPlan plan;
  switch (part.part) {
    case GradientPart::begin:
      plan.add(op, kInfoNceFactors + type, ceil_div(p.a.M + p.a.N, kFinishRows), kProductThreads);
      plan.add(op, kInfoNceWeight, 1, kProductThreads);
      break;
    case GradientPart::strip:
      add_strip(plan, op, {kInfoNceGradient + type, kInfoNceDx + type, kInfoNceDy + type, kInfoNceDa + type}, p.pairs,
                pair_tiles(part.rows) * p.pairs.n_tiles, p.da, p.db);
      break;
    case GradientPart::end:
      if (p.db) plan.add(op, kInfoNceDb + type, ceil_div(p.a.N, kFinishRows), kProductThreads);
      plan.add(op, kInfoNceNumbers, 1, kProductThreads);
  }
  return plan;
}

PRESTISSIMO_DEVICE bool takes_part(const InfoNceArgs& a, int64_t i, int64_t j) {
  if (a.mask && !a.mask[i * a.mask_stride + j]) return false;
  if (!a.a_group) return true;
  const int64_t g = a.a_group[i], h = a.b_group[j];
  return g >= 0 && h >= 0 && (g != h || j == i + a.offset);
}

PRESTISSIMO_DEVICE float nonzero_scale(const InfoNceArgs& a) { return *a.scale == 0.0f ? kTinyScale : *a.scale; }

// Where a tile lies: how many of its rows and columns there are, and that row r's positive is column r + diagonal.
struct TilePlace {
  int rows, columns, diagonal;

  PRESTISSIMO_DEVICE TilePlace(const InfoNceArgs& a, int64_t row, int64_t column)
      : rows(clamped(a.M - row)), columns(clamped(a.N - column)), diagonal(clamped(row + a.offset - column)) {}
  PRESTISSIMO_DEVICE bool has_positive(int r) const {
    return r < rows && r + diagonal >= 0 && r + diagonal < columns && r + diagonal < kTileColumns;
  }

 private:
  static PRESTISSIMO_DEVICE int clamped(int64_t v) { return static_cast<int>(v < -1024 ? -1024 : v > 1024 ? 1024 : v); }
};

// Whether any pair of this row of a, or of b, takes part: a warp looks, most often once.
PRESTISSIMO_DEVICE bool any_pair(const InfoNceArgs& a, bool of_a, int64_t i) {
  const int64_t n = of_a ? a.N : a.M;
  for (int64_t first = 0; first < n; first += kWarpSize) {
    const int64_t j = first + threadIdx.x % kWarpSize;
    const bool here = j < n && takes_part(a, of_a ? i : j, of_a ? j : i);
    if (warp_sum(here ? 1.0f : 0.0f) > 0.0f) return true;
  }
  return false;
}

// One row of a or b to a warp: its factor, and, for the backward, its log-sum-exp. In float16 the largest factor sets
// what gradients are stored with: there a row without a pair has none.
template <class T>
PRESTISSIMO_DEVICE void info_nce_factors(const InfoNceParameters& p) {
  const InfoNceArgs& a = p.a;
  const int64_t row = int64_t{blockIdx.x} * kFinishRows + threadIdx.x / kWarpSize;
  if (row >= a.M + a.N) return;
  const bool of_a = row < a.M;
  const int64_t i = of_a ? row : row - a.M;
  float factor = of_a ? nonzero_scale(a) : 1.0f;
  if (a.normalize) {
    const T* x = static_cast<const T*>(of_a ? a.a : a.b) + i * (of_a ? a.a_stride : a.b_stride);
    float squares = 0.0f;
    for (int64_t e = threadIdx.x % kWarpSize; e < a.E; e += kWarpSize) {
      const float v = to_float(x[e]);
      squares += v * v;
    }
    factor /= fmaxf(sqrtf(warp_sum(squares)), kNormEps);
    if constexpr (std::is_same_v<T, f16>)
      if ((a.mask || a.a_group) && !any_pair(a, of_a, i)) factor = 0.0f;
  }
  if (threadIdx.x % kWarpSize != 0) return;
  (of_a ? p.row_factor : p.column_factor)[i] = factor;
  if (!p.row_lse) return;
  const double* lse = of_a ? a.row_lse : a.column_lse;
  const bool anchor = lse && takes_part(a, i, of_a ? i + a.offset : i);
  (of_a ? p.row_lse : p.column_lse)[i] = anchor ? static_cast<float>(lse[i]) : INFINITY;
}

}  // namespace prestissimo::cuda
