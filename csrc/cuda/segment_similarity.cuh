// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/segment_similarity.h. Rows of the product are segments, columns texts. A tile holds as many whole songs
// as fit its rows; a song of more segments goes through several tiles, in the backward twice.
//
// Half a tile at a time is laid in shared memory, where a thread runs down a song's column, neighbours side by side.
// Four groups of threads share a tile: songs, or the segments of the one long song.
#pragma once
#include "../ops/segment_similarity.h"
#include "product_gradients.cuh"

namespace prestissimo::cuda {

constexpr int kSongGroups = kProductThreads / kStageColumns;
constexpr float kLowestProduct = -1e30f;  // a maximum that starts here leaves nothing of what it is rebased from

struct SegmentSimilarityParameters {
  SegmentSimilarityArgs a;
  int64_t songs;       // to a tile
  int tiles, n_tiles;  // that a song takes; of texts
  // backward
  const void* dout;
  int64_t dout_stride;
  void *dsegments, *dtext;
  float* dtemperature;
  PairGradients pairs;
  int64_t sum_tiles;
};

using SegmentSimilarityGradientPart = GradientPartOf<SegmentSimilarityBackwardArgs>;  // strips are whole songs

// In the order of SEGMENT_SIMILARITY_KERNELS, each for three types.
enum SegmentSimilarityKernel : int {
  kSegmentForward = 0,
  kSegmentGradient = 3,
  kSegmentDx = 6,
  kSegmentDy = 9,
  kSegmentFinishDx = 12,
  kSegmentFinishDy = 15,
  kSegmentTemperature = 18
};

inline int64_t tile_songs(const SegmentSimilarityArgs& a) { return std::max<int64_t>(kTileRows / a.S, 1); }

inline int64_t segment_similarity_strip(const SegmentSimilarityBackwardArgs& b) {
  const SegmentSimilarityArgs& a = b.forward;
  return strip_rows("segment_similarity_backward", a.dtype, b.workspace_size, a.B * a.S, tile_songs(a) * a.S, a.N, a.E,
                    0);
}

inline SegmentSimilarityParameters parameters(const SegmentSimilarityArgs& a) {
  SegmentSimilarityParameters p{};
  p.a = a;
  p.songs = tile_songs(a), p.tiles = static_cast<int>(pair_tiles(a.S)), p.n_tiles = static_cast<int>(pair_tiles(a.N));
  return p;
}
inline LaunchPlan plan(const SegmentSimilarityArgs& a) {
  LaunchPlan plan;
  plan.add("segment_similarity", kSegmentForward + product_type(a.dtype),
           ceil_div(a.B, tile_songs(a)) * pair_tiles(a.N), kProductThreads);
  return plan;
}

inline SegmentSimilarityParameters parameters(const SegmentSimilarityGradientPart& part) {
  const SegmentSimilarityBackwardArgs& b = part.args;
  SegmentSimilarityParameters p = parameters(b.forward);
  p.dout = b.dout, p.dout_stride = b.dout_stride;
  p.dsegments = b.dsegments, p.dtext = b.dtext, p.dtemperature = b.dtemperature;
  Carver memory(b.workspace);
  const int64_t tile_rows = p.songs * p.a.S;
  p.pairs = pair_gradients(part, p.a.dtype, memory, tile_rows, p.a.N, p.a.E);
  p.pairs.x = p.a.segments, p.pairs.x_stride = p.a.segment_stride;
  p.pairs.y = p.a.text, p.pairs.y_stride = p.a.text_stride;
  p.sum_tiles = ceil_div(part.strip, tile_rows) * p.n_tiles;
  return p;
}
inline LaunchPlan plan(const SegmentSimilarityGradientPart& part) {
  const char* op = "segment_similarity_backward";
  const SegmentSimilarityParameters p = parameters(part);
  const int type = product_type(p.a.dtype);
  LaunchPlan plan;
  if (part.part == GradientPart::strip)
    add_strip(plan, op, {kSegmentGradient + type, kSegmentDx + type, kSegmentDy + type, kSegmentFinishDx + type},
              p.pairs, ceil_div(part.rows, p.songs * p.a.S) * p.n_tiles, p.dsegments, p.dtext);
  if (part.part == GradientPart::end) {
    if (p.dtext) plan.add(op, kSegmentFinishDy + type, ceil_div(p.a.N, kFinishRows), kProductThreads);
    plan.add(op, kSegmentTemperature, 1, kProductThreads);
  }
  return plan;
}

// Products down one column, the mask of their segments, and the temperature: weights are e^((v - best) sharpness) of
// v = c times the temperature's sign, so that the largest v weighs most.
struct SongColumn {
  const float* staged;
  const uint8_t* mask;
  float sign, sharpness;
  float best, sum, weighted;  // largest v, sum of the weights, of weights times v - best

  PRESTISSIMO_DEVICE SongColumn(float temperature)
      : staged(nullptr),
        mask(nullptr),
        sign(temperature < 0.0f ? -1.0f : 1.0f),
        sharpness(1.0f / fabsf(temperature)),
        best(kLowestProduct),
        sum(0.0f),
        weighted(0.0f) {}
  PRESTISSIMO_DEVICE bool keeps(int s) const { return !mask || mask[s]; }
  PRESTISSIMO_DEVICE float at(int s) const { return sign * staged[s * kStagePitch]; }
  PRESTISSIMO_DEVICE void rebase(float top) {
    const float fade = expf((best - top) * sharpness);
    weighted = fade * (weighted + sum * (best - top));
    sum *= fade;
    best = top;
  }
  PRESTISSIMO_DEVICE void merge(float best_, float sum_, float weighted_) {
    SongColumn other = *this;
    other.best = best_, other.sum = sum_, other.weighted = weighted_;
    const float top = fmaxf(best, best_);
    rebase(top);
    other.rebase(top);
    sum += other.sum;
    weighted += other.weighted;
  }
  // Segments first, first + step, ... below last: the largest v of them and of those before; their weights.
  PRESTISSIMO_DEVICE float top_with(int first, int last, int step) const {
    float top = best;
#pragma unroll 1
    for (int s = first; s < last; s += step)
      if (keeps(s)) top = fmaxf(top, at(s));
    return top;
  }
  PRESTISSIMO_DEVICE void weigh(int first, int last, int step) {
#pragma unroll 1
    for (int s = first; s < last; s += step) {
      if (!keeps(s)) continue;
      const float below = at(s) - best, e = expf(below * sharpness);
      sum += e;
      weighted += e * below;
    }
  }
  PRESTISSIMO_DEVICE void add(int first, int last, int step) {
    rebase(top_with(first, last, step));
    weigh(first, last, step);
  }
  // All segments of a song: there is nothing yet to rebase.
  PRESTISSIMO_DEVICE void add_all(int segments) {
    best = top_with(0, segments, 1);
    weigh(0, segments, 1);
  }
  PRESTISSIMO_DEVICE float score() const { return sign * (best + weighted / sum); }
  // The staged products to d = dL/dP times dP/dc; the sum of d alpha (c - P)^2.
  PRESTISSIMO_DEVICE float to_gradients(float* out, float d, int first, int last, int step) const {
    const float below = weighted / sum, share = d / sum;
    float variance = 0.0f;
#pragma unroll 1
    for (int s = first; s < last; s += step) {
      float g = 0.0f;
      if (keeps(s)) {
        const float v = at(s) - best, away = v - below, part = share * expf(v * sharpness);
        variance += part * away * away;
        g = part * (1.0f + away * sharpness);
      }
      out[s * kStagePitch] = g;
    }
    return variance;
  }
};

// The tiles of a block: songs [song, song + count) times texts from `column` on.
struct SongTile {
  int64_t song, count, column;
  int group, lane;  // of this thread: which songs or segments, which staged column

  PRESTISSIMO_DEVICE SongTile(const SegmentSimilarityParameters& p, int64_t first_song, int64_t end_song)
      : song(first_song + static_cast<int>(blockIdx.x) / p.n_tiles * p.songs),
        count(end_song - song < p.songs ? end_song - song : p.songs),
        column(int64_t{static_cast<int>(blockIdx.x) % p.n_tiles} * kTileColumns),
        group(static_cast<int>(threadIdx.x) / kStageColumns),
        lane(static_cast<int>(threadIdx.x) % kStageColumns) {}
};

template <class T, class Products>
PRESTISSIMO_DEVICE void multiply_songs(const SegmentSimilarityParameters& p, const SongTile& t, int tile, Products& x,
                                       unsigned char* shared) {
  const SegmentSimilarityArgs& a = p.a;
  x.run(operand<Major::depth, T>(a.segments, a.segment_stride, (t.song + t.count) * a.S, a.E),
        t.song * a.S + int64_t{tile} * kTileRows, operand<Major::depth, T>(a.text, a.text_stride, a.N, a.E), t.column,
        shared);
}

PRESTISSIMO_DEVICE const uint8_t* mask_from(const SegmentSimilarityArgs& a, int64_t song, int segment) {
  return a.mask ? a.mask + song * a.mask_stride + segment : nullptr;
}
PRESTISSIMO_DEVICE int segments_in(const SegmentSimilarityArgs& a, int tile) {
  const int64_t left = a.S - int64_t{tile} * kTileRows;
  return left < kTileRows ? static_cast<int>(left) : kTileRows;
}

// Softmaxes of the one long song's columns, for all threads, of both halves of the tile.
template <class T, class Products>
PRESTISSIMO_DEVICE void long_song(const SegmentSimilarityParameters& p, const SongTile& t, Products& x,
                                  unsigned char* shared, SongColumn (&of)[2]) {
  auto* stage = reinterpret_cast<float*>(shared);
#pragma unroll 1
  for (int tile = 0; tile < p.tiles; ++tile) {
    multiply_songs<T>(p, t, tile, x, shared);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half) __syncthreads();
      x.stage(half, stage);
      __syncthreads();
      of[half].staged = stage + t.lane;
      of[half].mask = mask_from(p.a, t.song, tile * kTileRows);
      of[half].add(t.group, segments_in(p.a, tile), kSongGroups);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    __syncthreads();
    float* mine = stage + threadIdx.x * 3;
    mine[0] = of[half].best, mine[1] = of[half].sum, mine[2] = of[half].weighted;
    __syncthreads();
    const float* first = stage + t.lane * 3;
    of[half].best = first[0], of[half].sum = first[1], of[half].weighted = first[2];
    for (int group = 1; group < kSongGroups; ++group) {
      const float* theirs = first + group * kStageColumns * 3;
      of[half].merge(theirs[0], theirs[1], theirs[2]);
    }
  }
}

template <class T>
PRESTISSIMO_DEVICE void segment_similarity_forward(const SegmentSimilarityParameters& p) {
  SHARED_ARRAY(unsigned char, shared, kProductShared);
  const SegmentSimilarityArgs& a = p.a;
  const SongTile t(p, 0, a.B);
  const float temperature = *a.temperature;
  T* out = static_cast<T*>(a.out);
  TileProduct<T, Major::depth, Major::depth> x;
  if (p.tiles > 1) {
    SongColumn of[2] = {SongColumn(temperature), SongColumn(temperature)};
    long_song<T>(p, t, x, shared, of);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t j = t.column + half * kStageColumns + t.lane;
      if (t.group == 0 && j < a.N) out[t.song * a.N + j] = from_float<T>(of[half].score());
    }
    return;
  }
  auto* stage = reinterpret_cast<float*>(shared);
  const int S = static_cast<int>(a.S);
  multiply_songs<T>(p, t, 0, x, shared);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (half) __syncthreads();
    x.stage(half, stage);
    __syncthreads();
    const int64_t j = t.column + half * kStageColumns + t.lane;
    if (j >= a.N) continue;
    for (int song = t.group; song < t.count; song += kSongGroups) {
      SongColumn of(temperature);
      of.staged = stage + song * S * kStagePitch + t.lane;
      of.mask = mask_from(a, t.song + song, 0);
      of.add_all(S);
      out[(t.song + song) * a.N + j] = from_float<T>(of.score());
    }
  }
}

template <class T>
PRESTISSIMO_DEVICE void segment_similarity_gradient(const SegmentSimilarityParameters& p) {
  SHARED_ARRAY(unsigned char, shared, kProductShared);
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  const SegmentSimilarityArgs& a = p.a;
  const SongTile t(p, p.pairs.first / a.S, (p.pairs.first + p.pairs.rows) / a.S);
  const float temperature = *a.temperature;
  auto* stage = reinterpret_cast<float*>(shared);
  const auto dout = [&](int64_t song, int64_t j) {
    return j < a.N ? to_float(static_cast<const T*>(p.dout)[song * p.dout_stride + j]) : 0.0f;
  };
  const auto store = [&](int half, int tile, int rows) {
    const int64_t row = t.song * a.S + int64_t{tile} * kTileRows - p.pairs.first, at = t.column + half * kStageColumns;
    store_staged(stage, static_cast<T*>(p.pairs.g) + row * p.pairs.pitch + at, p.pairs.pitch, rows, p.pairs.pitch - at);
  };
  float sums[2] = {0.0f, 0.0f};
  TileProduct<T, Major::depth, Major::depth> x;
  SongColumn of[2] = {SongColumn(temperature), SongColumn(temperature)};
  if (p.tiles > 1) long_song<T>(p, t, x, shared, of);
#pragma unroll 1
  for (int tile = 0; tile < p.tiles; ++tile) {
    multiply_songs<T>(p, t, tile, x, shared);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half) __syncthreads();
      x.stage(half, stage);
      __syncthreads();
      const int64_t j = t.column + half * kStageColumns + t.lane;
      int rows = static_cast<int>(t.count * a.S);
      if (p.tiles > 1) {
        rows = segments_in(a, tile);
        of[half].staged = stage + t.lane;
        of[half].mask = mask_from(a, t.song, tile * kTileRows);
        sums[0] += of[half].to_gradients(stage + t.lane, dout(t.song, j), t.group, rows, kSongGroups);
      } else {
        const int S = static_cast<int>(a.S);
        for (int song = t.group; song < t.count; song += kSongGroups) {
          SongColumn one(temperature);
          float* column = stage + song * S * kStagePitch + t.lane;
          one.staged = column;
          one.mask = mask_from(a, t.song + song, 0);
          one.add_all(S);
          sums[0] += one.to_gradients(column, dout(t.song + song, j), 0, S, 1);
        }
      }
      __syncthreads();
      store(half, tile, rows);
    }
  }
  add_tile_sums(p.pairs, sums, scratch);
}

template <class T>
PRESTISSIMO_DEVICE void segment_similarity_finish_dx(const SegmentSimilarityParameters& p) {
  const int64_t row = int64_t{blockIdx.x} * kFinishRows + threadIdx.x / kWarpSize, E = p.a.E;
  if (row >= p.pairs.rows) return;
  finish_row(p.pairs.dx + row * E, static_cast<int>(kDepthParts), p.pairs.rows * E, E,
             static_cast<T*>(p.dsegments) + (p.pairs.first + row) * E, [](int64_t, float v) { return v; });
}
template <class T>
PRESTISSIMO_DEVICE void segment_similarity_finish_dy(const SegmentSimilarityParameters& p) {
  const int64_t row = int64_t{blockIdx.x} * kFinishRows + threadIdx.x / kWarpSize, E = p.a.E;
  if (row >= p.a.N) return;
  finish_row(p.pairs.dy + row * E, 1, 0, E, static_cast<T*>(p.dtext) + row * E, [](int64_t, float v) { return v; });
}

PRESTISSIMO_DEVICE void segment_similarity_temperature_body(const SegmentSimilarityParameters& p) {
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  float total[2];
  total_tile_sums(p.pairs.sums, p.sum_tiles, total, scratch);
  const float inverse = 1.0f / *p.a.temperature;
  if (threadIdx.x == 0) *p.dtemperature = -total[0] * inverse * inverse;
}

#define SEGMENT_SIMILARITY_KERNEL(name, body)                                            \
  extern "C" __global__ void __launch_bounds__(kProductThreads)                          \
      segment_similarity_##name(const __grid_constant__ SegmentSimilarityParameters p) { \
    body;                                                                                \
  }
#define SEGMENT_SIMILARITY_INSTANCE(suffix, T, ...)                                 \
  SEGMENT_SIMILARITY_KERNEL(forward_##suffix, segment_similarity_forward<T>(p))     \
  SEGMENT_SIMILARITY_KERNEL(gradient_##suffix, segment_similarity_gradient<T>(p))   \
  SEGMENT_SIMILARITY_KERNEL(dx_##suffix, gradient_dx<T>(p.pairs))                   \
  SEGMENT_SIMILARITY_KERNEL(dy_##suffix, gradient_dy<T>(p.pairs))                   \
  SEGMENT_SIMILARITY_KERNEL(finish_dx_##suffix, segment_similarity_finish_dx<T>(p)) \
  SEGMENT_SIMILARITY_KERNEL(finish_dy_##suffix, segment_similarity_finish_dy<T>(p))
PRODUCT_TYPES(SEGMENT_SIMILARITY_INSTANCE, )
SEGMENT_SIMILARITY_KERNEL(temperature, segment_similarity_temperature_body(p))

// In the order of SegmentSimilarityKernel.
#define SEGMENT_SIMILARITY_NAME(suffix, T, X, name) X(segment_similarity_##name##_##suffix)
#define SEGMENT_SIMILARITY_KERNELS(X)                  \
  PRODUCT_TYPES(SEGMENT_SIMILARITY_NAME, X, forward)   \
  PRODUCT_TYPES(SEGMENT_SIMILARITY_NAME, X, gradient)  \
  PRODUCT_TYPES(SEGMENT_SIMILARITY_NAME, X, dx)        \
  PRODUCT_TYPES(SEGMENT_SIMILARITY_NAME, X, dy)        \
  PRODUCT_TYPES(SEGMENT_SIMILARITY_NAME, X, finish_dx) \
  PRODUCT_TYPES(SEGMENT_SIMILARITY_NAME, X, finish_dy) \
  X(segment_similarity_temperature)
#define SEGMENT_SIMILARITY_PLANS(X)            \
  X(segment_similarity, SegmentSimilarityArgs) \
  X(segment_similarity_backward, SegmentSimilarityGradientPart)

}  // namespace prestissimo::cuda
