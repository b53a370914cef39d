// SPDX-License-Identifier: Apache-2.0
// Gradients of X [M, E] and Y [N, E] from G = dL/dS of S = X Y^T. An op's own kernel makes G for a strip of rows of X
// at a time and stores it in their type; then
//
//   dX = G Y    in kDepthParts parts of the sum over N, for enough blocks
//   dY = G^T X  beside what the strips before it left, in their order
//
// in float32, and, row by row, to the type of X. The kernels are instanced for each op.
#pragma once
#include "../ops/pairs.h"
#include "product.cuh"
#include "reduce.cuh"

namespace prestissimo::cuda {

static_assert(kPairTile == kTileRows && kPairTile == kTileColumns);

struct PairGradients {
  const void *x, *y;
  int64_t x_stride, y_stride;  // of rows
  int64_t N, E;
  int64_t first, rows;  // of the strip
  int64_t pitch;        // of G
  void* g;              // [rows][pitch], zeros from N on
  float *dx, *dy;       // [kDepthParts][rows][E], [N][E]
  float* sums;          // two numbers of every tile of a strip
  int e_tiles, n_tiles;
};

// Pieces of the workspace, each on 16 bytes.
class Carver {
 public:
  explicit Carver(float* memory) : next_(memory) {}
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += ceil_div(floats, 4) * 4;
    return piece;
  }

 private:
  float* next_;
};

// Which part of an op's gradients a plan is for.
enum class GradientPart : int64_t { begin, strip, end };

// A part of an op's backward as the launch plan takes it; no strip is longer than `strip` rows.
template <class BackwardArgs>
struct GradientPartOf {
  BackwardArgs args;
  GradientPart part;
  int64_t strip, first, rows;
};

// `tile_rows`: of a tile of G. X and Y are the op's to set.
template <class BackwardArgs>
PairGradients pair_gradients(const GradientPartOf<BackwardArgs>& part, DType t, Carver& memory, int64_t tile_rows,
                             int64_t N, int64_t E) {
  PairGradients p{};
  p.N = N, p.E = E, p.pitch = gradient_pitch(N);
  p.first = part.first, p.rows = part.rows;
  p.e_tiles = static_cast<int>(pair_tiles(E)), p.n_tiles = static_cast<int>(pair_tiles(N));
  p.dy = memory.take(N * E);
  p.g = memory.take(part.strip * p.pitch * item_size(t) / 4);
  p.dx = memory.take(kDepthParts * part.strip * E);
  p.sums = memory.take(2 * ceil_div(part.strip, tile_rows) * p.n_tiles);
  return p;
}

// f(part, strip, first, rows) for the beginning, every strip of M rows in its order, at least one, and the end.
template <class F>
void for_gradient_parts(int64_t M, int64_t strip, F f) {
  f(GradientPart::begin, strip, int64_t{0}, std::min(strip, M));
  int64_t first = 0;
  do {
    f(GradientPart::strip, strip, first, std::min(strip, M - first));
    first += strip;
  } while (first < M);
  f(GradientPart::end, strip, int64_t{0}, std::min(strip, M));
}

constexpr int kFinishRows = kProductThreads / kWarpSize;  // a warp each

// A strip: its G by `blocks` blocks, then dX and dY, each where wanted.
struct GradientKernels {
  int g, dx, dy, finish_dx;
};
inline void add_strip(LaunchPlan& plan, const char* op, const GradientKernels& k, const PairGradients& p,
                      int64_t blocks, bool wants_x, bool wants_y) {
  plan.add(op, k.g, blocks, kProductThreads);
  if (wants_x) plan.add(op, k.dx, pair_tiles(p.rows) * p.e_tiles * kDepthParts, kProductThreads);
  if (wants_y) plan.add(op, k.dy, static_cast<int64_t>(p.n_tiles) * p.e_tiles, kProductThreads);
  if (wants_x && p.E) plan.add(op, k.finish_dx, ceil_div(p.rows, kFinishRows), kProductThreads);
}

template <class T>
PRESTISSIMO_DEVICE void gradient_dx(const PairGradients& p) {
  SHARED_ARRAY(unsigned char, shared, kProductShared);
  int block = static_cast<int>(blockIdx.x);
  const int part = block % static_cast<int>(kDepthParts);
  block /= static_cast<int>(kDepthParts);
  const int64_t column = int64_t{block % p.e_tiles} * kTileColumns, row = int64_t{block / p.e_tiles} * kTileRows;
  const int64_t from = int64_t{p.n_tiles} * part / kDepthParts * kTileColumns;
  int64_t to = int64_t{p.n_tiles} * (part + 1) / kDepthParts * kTileColumns, end = to;
  if (to > p.pitch) to = p.pitch;
  if (end > p.N) end = p.N;
  const T* y = static_cast<const T*>(p.y) + from * p.y_stride;
  TileProduct<T, Major::depth, Major::line> product;
  product.run(operand<Major::depth, T>(static_cast<const T*>(p.g) + from, p.pitch, p.rows, to - from), row,
              operand<Major::line, T>(y, p.y_stride, p.E, end - from), column, shared);
  float* dx = p.dx + (int64_t{part} * p.rows + row) * p.E + column;
  product.each([&](int r, int c, float v) {
    if (row + r < p.rows && column + c < p.E) dx[r * p.E + c] = v;
  });
}

template <class T>
PRESTISSIMO_DEVICE void gradient_dy(const PairGradients& p) {
  SHARED_ARRAY(unsigned char, shared, kProductShared);
  const int block = static_cast<int>(blockIdx.x);
  const int64_t column = int64_t{block % p.e_tiles} * kTileColumns, row = int64_t{block / p.e_tiles} * kTileRows;
  const T* x = static_cast<const T*>(p.x) + p.first * p.x_stride;
  TileProduct<T, Major::line, Major::line> product;
  product.run(operand<Major::line, T>(p.g, p.pitch, p.pitch, p.rows), row,
              operand<Major::line, T>(x, p.x_stride, p.E, p.rows), column, shared);
  float* dy = p.dy + row * p.E + column;
  const bool goes_on = p.first > 0;
  product.each([&](int r, int c, float v) {
    if (row + r < p.N && column + c < p.E) dy[r * p.E + c] = goes_on ? dy[r * p.E + c] + v : v;
  });
}

// Sums over `parts` planes of [rows][E] to the type of the row; value(e, sum) is what is stored. One row to a warp.
template <class T, class Value>
PRESTISSIMO_DEVICE void finish_row(const float* row, int parts, int64_t plane, int64_t E, T* out, Value value) {
  for (int64_t e = threadIdx.x % kWarpSize; e < E; e += kWarpSize) {
    float v = row[e];
    for (int part = 1; part < parts; ++part) v += row[part * plane + e];
    out[e] = from_float<T>(value(e, v));
  }
}

// Staged columns of a tile (TileProduct::stage) to G, 16 bytes at a time: the first `rows` rows, `columns` before the
// pitch ends.
template <class T>
PRESTISSIMO_DEVICE void store_staged(const float* stage, T* g, int64_t pitch, int rows, int64_t columns) {
  constexpr int kLanes = kLanes16<T>, kAcross = kStageColumns / kLanes;
  const int c = static_cast<int>(threadIdx.x) % kAcross * kLanes;
  if (c >= columns) return;
#pragma unroll 1
  for (int r = static_cast<int>(threadIdx.x) / kAcross; r < rows; r += kProductThreads / kAcross) {
    float v[kLanes];
    load(stage + r * kStagePitch + c, v);
    store_global(g + r * pitch + c, v);
  }
}

// Two numbers summed over the block and added to the tile's of the strips before. Scratch of 2 * kMaxWarps floats.
PRESTISSIMO_DEVICE void add_tile_sums(const PairGradients& p, float (&v)[2], float* scratch) {
  block_sum(v, scratch);
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float* to = p.sums + 2 * int64_t{blockIdx.x} + i;
    *to = p.first > 0 ? *to + v[i] : v[i];
  }
}

// The sums of all tiles, for every thread of the one block. Scratch of 2 * kMaxWarps floats.
PRESTISSIMO_DEVICE void total_tile_sums(const float* sums, int64_t tiles, float (&total)[2], float* scratch) {
  total[0] = total[1] = 0.0f;
  for (int64_t t = threadIdx.x; t < tiles; t += kProductThreads) {
    total[0] += sums[2 * t];
    total[1] += sums[2 * t + 1];
  }
  block_sum(total, scratch);
}

}  // namespace prestissimo::cuda
