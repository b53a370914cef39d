// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/adaln_modulate.h. One block normalises one row; its threads hold the row in registers as far as kHeld
// vectors reach and read the rest of a longer row again in each pass. Sums over time for the per-sample and per-channel
// gradients go through `partial` in fixed blocks of kTimeBlock rows, and are added in a fixed order.
#pragma once
#include <type_traits>

#include "adaln_modulate_plan.h"
#include "reduce.cuh"
#include "vec.cuh"

namespace prestissimo::cuda {

// ---- what the kernels share

template <class T, class View>
PRESTISSIMO_DEVICE auto row_of(const View& v, int64_t b, int64_t t) {
  if constexpr (std::is_same_v<View, RowView>)
    return static_cast<const T*>(v.data) + b * v.batch_stride + t * v.time_stride;
  else
    return static_cast<T*>(v.data) + b * v.batch_stride + t * v.time_stride;
}

// Calls f(k, c) for every vector of V channels that this thread owns: k < K where its lanes are held in registers.
template <int V, int K, class F>
PRESTISSIMO_DEVICE void for_owned(int channels, F f) {
  const int first = threadIdx.x * V, step = blockDim.x * V;
#pragma unroll
  for (int k = 0; k < K; ++k)
    if (first + k * step < channels) f(k, first + k * step);
  for (int c = first + K * step; c < channels; c += step) f(K, c);
}

template <class T, int V, int K>
struct HeldRow {
  const T* row;
  float held[K][V];

  PRESTISSIMO_DEVICE HeldRow(const T* row_, int channels) : row(row_) {
    for_owned<V, K>(channels, [&](int k, int c) {
      if (k < K) load(row + c, held[k]);
    });
  }
  PRESTISSIMO_DEVICE void lanes(int k, int c, float (&v)[V]) const {
    if (k < K) {
#pragma unroll
      for (int i = 0; i < V; ++i) v[i] = held[k][i];
    } else {
      load(row + c, v);
    }
  }
};

// The mean is `mean + rest`: its rounding would otherwise be the largest error of a row that lies far from zero.
struct Statistics {
  float mean, rest, rstd;

  PRESTISSIMO_DEVICE float normalise(float x) const { return ((x - mean) - rest) * rstd; }
};

// Two passes, mean first: no cancellation however far the mean lies from zero. `scratch` has 3 * kMaxWarps floats.
template <class T, int V, int K>
PRESTISSIMO_DEVICE Statistics statistics(const HeldRow<T, V, K>& x, int channels, Norm norm, float eps,
                                         float* scratch) {
  float mean[1] = {0.0f}, moments[2] = {0.0f, 0.0f};  // squares and sum of what the mean leaves
  const bool centred = norm == Norm::layer;
  if (centred) {
    for_owned<V, K>(channels, [&](int k, int c) {
      float v[V];
      x.lanes(k, c, v);
#pragma unroll
      for (int i = 0; i < V; ++i) mean[0] += v[i];
    });
    block_sum(mean, scratch);
    mean[0] /= channels;
  }
  for_owned<V, K>(channels, [&](int k, int c) {
    float v[V];
    x.lanes(k, c, v);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float d = v[i] - mean[0];
      moments[0] += d * d;
      moments[1] += d;
    }
  });
  block_sum(moments, scratch + kMaxWarps);
  const float rest = centred ? moments[1] / channels : 0.0f;
  const float variance = fmaxf(moments[0] / channels - rest * rest, 0.0f);
  // not rsqrtf: once a row its approximation would cost accuracy, not save time
  return {mean[0], rest, 1.0f / sqrtf(variance + eps)};
}

template <int V, class T>
PRESTISSIMO_DEVICE void multiply(float (&v)[V], const T* p, int c, float plus) {
  if (!p) return;
  float w[V];
  load(p + c, w);
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] *= plus + w[i];
}
template <int V, class T>
PRESTISSIMO_DEVICE void add(float (&v)[V], const T* p, int c) {
  if (!p) return;
  float w[V];
  load(p + c, w);
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] += w[i];
}

// A null RowView stays null whatever the row.
template <class T>
PRESTISSIMO_DEVICE const T* optional_row(const RowView& v, int64_t b, int64_t t) {
  return v.data ? row_of<T>(v, b, t) : nullptr;
}

// ---- forward

template <class T, int V>
PRESTISSIMO_DEVICE void adaln_modulate_rows(const AdalnModulateArgs& a) {
  SHARED_ARRAY(float, scratch, 3 * kMaxWarps);
  constexpr int K = kHeld<V>;
  const int C = static_cast<int>(a.channels);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.time), t = blockIdx.x % static_cast<uint32_t>(a.time);
  const HeldRow<T, V, K> x(row_of<T>(a.x, b, t), C);
  const Statistics s = statistics(x, C, a.norm, a.eps, scratch);
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  const T *scale = optional_row<T>(a.scale, b, t), *shift = optional_row<T>(a.shift, b, t);
  T* y = row_of<T>(a.y, b, t);
  for_owned<V, K>(C, [&](int k, int c) {
    float v[V];
    x.lanes(k, c, v);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = s.normalise(v[i]);
    multiply(v, weight, c, 0.0f);
    add(v, bias, c);
    multiply(v, scale, c, 1.0f);
    add(v, shift, c);
    store(y + c, v);
  });
}

// ---- backward: dx, the gradients that have one value for each row, and the row statistics

template <class T, int V>
PRESTISSIMO_DEVICE void adaln_modulate_backward_rows(const AdalnModulateBackwardParameters& a) {
  SHARED_ARRAY(float, scratch, 5 * kMaxWarps);
  constexpr int K = kHeld<V>;
  const AdalnModulateArgs& f = a.forward;
  const int C = static_cast<int>(f.channels);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(f.time), t = blockIdx.x % static_cast<uint32_t>(f.time);
  const HeldRow<T, V, K> x(row_of<T>(f.x, b, t), C), dy(row_of<T>(a.dy, b, t), C);
  const Statistics s = statistics(x, C, f.norm, f.eps, scratch);
  if (threadIdx.x == 0 && a.statistics) {
    a.statistics[2 * (b * f.time + t)] = s.mean + s.rest;
    a.statistics[2 * (b * f.time + t) + 1] = s.rstd;
  }
  const T *weight = static_cast<const T*>(f.weight), *bias = static_cast<const T*>(f.bias);
  const T* scale = optional_row<T>(f.scale, b, t);
  T* dscale = a.dscale.data && a.scale_per_row ? row_of<T>(a.dscale, b, t) : nullptr;
  T* dshift = a.dshift.data && a.shift_per_row ? row_of<T>(a.dshift, b, t) : nullptr;

  // n and g = dy * (1 + scale) * weight
  const auto gradient = [&](int k, int c, float(&n)[V], float(&g)[V]) {
    x.lanes(k, c, n);
    dy.lanes(k, c, g);
#pragma unroll
    for (int i = 0; i < V; ++i) n[i] = s.normalise(n[i]);
    multiply(g, scale, c, 1.0f);
    multiply(g, weight, c, 0.0f);
  };
  float mean[2] = {0.0f, 0.0f};  // of g and of g * n
  for_owned<V, K>(C, [&](int k, int c) {
    float n[V], g[V];
    gradient(k, c, n, g);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      mean[0] += g[i];
      mean[1] += g[i] * n[i];
    }
    if (dshift || dscale) {
      float d[V];
      dy.lanes(k, c, d);
      if (dshift) store(dshift + c, d);
      if (dscale) {
        multiply(n, weight, c, 0.0f);
        add(n, bias, c);
#pragma unroll
        for (int i = 0; i < V; ++i) d[i] *= n[i];
        store(dscale + c, d);
      }
    }
  });
  block_sum(mean, scratch + 3 * kMaxWarps);
  mean[0] = f.norm == Norm::layer ? mean[0] / C : 0.0f;
  mean[1] /= C;
  T* dx = row_of<T>(a.dx, b, t);
  for_owned<V, K>(C, [&](int k, int c) {
    float n[V], g[V];
    gradient(k, c, n, g);
#pragma unroll
    for (int i = 0; i < V; ++i) g[i] = s.rstd * (g[i] - mean[0] - n[i] * mean[1]);
    store(dx + c, g);
  });
}

// ---- backward: sums over time

// A row of shared memory for the V channels of each of 32 lanes: planes of up to 4 channels, so that neighbouring lanes
// store neighbouring 16 bytes, the planes 16 floats off each other's banks, so that channels are read in order without
// conflict.
template <int V>
struct LaneRow {
  static constexpr int kChunk = V < 4 ? V : 4;
  static constexpr int kPlane = kWarpSize * kChunk + (V > kChunk ? 16 : 0);
  static constexpr int kFloats = kPlane * (V / kChunk);

  static PRESTISSIMO_DEVICE int position(int lane, int i) { return i / kChunk * kPlane + lane * kChunk + i % kChunk; }
  static PRESTISSIMO_DEVICE void put(float* row, int lane, const float (&v)[V]) {
#pragma unroll
    for (int i = 0; i < V; i += kChunk) {
      float chunk[kChunk];
#pragma unroll
      for (int j = 0; j < kChunk; ++j) chunk[j] = v[i + j];
      store(row + position(lane, i), chunk);
    }
  }
};

// One block adds kTimeBlock rows of one sample for 32 V channels. Group g takes rows g, g + 8, ...; then the groups are
// added in order.
template <class T, int V>
PRESTISSIMO_DEVICE void adaln_modulate_backward_columns(const AdalnModulateBackwardParameters& a) {
  constexpr int kTile = kWarpSize * V;
  using Row = LaneRow<V>;
  SHARED_ARRAY(float, tile, (kColumnGroups * Row::kFloats));
  const AdalnModulateArgs& f = a.forward;
  const AdalnModulateSums& sums = a.sums;
  const int C = static_cast<int>(f.channels);
  const uint32_t tiles = (C + kTile - 1) / kTile;
  const uint32_t blocks = static_cast<uint32_t>(a.blocks);
  const int64_t b = blockIdx.x / tiles / blocks, j = blockIdx.x / tiles % blocks;
  const int first = static_cast<int>(blockIdx.x % tiles) * kTile;
  const int lane = threadIdx.x % kWarpSize, group = threadIdx.x / kWarpSize;
  const int c = first + lane * V;

  float sum[4][V] = {};  // shift, scale, weight, bias
  if (c < C) {
    const int64_t end = f.time < (j + 1) * kTimeBlock ? f.time : (j + 1) * kTimeBlock;
    for (int64_t t = j * kTimeBlock + group; t < end; t += kColumnGroups) {
      float n[V], d[V], g[V];
      load(row_of<T>(f.x, b, t) + c, n);
      load(row_of<T>(a.dy, b, t) + c, d);
      const float* s = a.statistics + 2 * (b * f.time + t);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        n[i] = (n[i] - s[0]) * s[1];
        g[i] = d[i];
      }
      multiply(g, optional_row<T>(f.scale, b, t), c, 1.0f);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sum[0][i] += d[i];
        sum[2][i] += g[i] * n[i];
        sum[3][i] += g[i];
      }
      multiply(n, static_cast<const T*>(f.weight), c, 0.0f);
      add(n, static_cast<const T*>(f.bias), c);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[1][i] += d[i] * n[i];
    }
  }
  const int where[4] = {sums.shift, sums.scale, sums.weight, sums.bias};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (where[k] < 0) continue;
    Row::put(tile + group * Row::kFloats, lane, sum[k]);
    __syncthreads();
    const int column = threadIdx.x;
    if (column < kTile && first + column < C) {
      const int at = Row::position(column / V, column % V);
      float total = 0.0f;
#pragma unroll
      for (int g = 0; g < kColumnGroups; ++g) total += tile[g * Row::kFloats + at];
      a.partial[((where[k] * f.batch + b) * blocks + j) * C + first + column] = total;
    }
    __syncthreads();
  }
}

// Adds the rows of `partial` that belong to one output: those of one sample for dshift and dscale, all for dweight and
// dbias.
template <class T>
PRESTISSIMO_DEVICE void adaln_modulate_backward_sums(const AdalnModulateBackwardParameters& a) {
  SHARED_ARRAY(float, tile, (kColumnGroups * kWarpSize));
  const AdalnModulateArgs& f = a.forward;
  const AdalnModulateSums& sums = a.sums;
  const int C = static_cast<int>(f.channels);
  const uint32_t tiles = (C + kWarpSize - 1) / kWarpSize;
  const int64_t blocks = a.blocks;
  int64_t output = blockIdx.x / tiles;
  int which;
  T* out;
  int64_t row = 0, rows = blocks;
  const auto per_sample = [&](int sum, const RowOutput& d) {
    if (sum < 0) return false;
    if (output >= f.batch) {
      output -= f.batch;
      return false;
    }
    which = sum;
    out = row_of<T>(d, output, 0);
    row = output * blocks;
    return true;
  };
  if (!per_sample(sums.shift, a.dshift) && !per_sample(sums.scale, a.dscale)) {
    const bool weight = sums.weight >= 0 && output == 0;
    which = weight ? sums.weight : sums.bias;
    out = static_cast<T*>(weight ? a.dweight : a.dbias);
    rows = f.batch * blocks;
  }
  const int lane = threadIdx.x % kWarpSize, group = threadIdx.x / kWarpSize;
  const int c = static_cast<int>(blockIdx.x % tiles) * kWarpSize + lane;
  float total = 0.0f;
  if (c < C)
    for (int64_t r = group; r < rows; r += kColumnGroups)
      total += a.partial[(which * f.batch * blocks + row + r) * C + c];
  tile[group * kWarpSize + lane] = total;
  __syncthreads();
  if (group > 0 || c >= C) return;
  total = 0.0f;
#pragma unroll
  for (int g = 0; g < kColumnGroups; ++g) total += tile[g * kWarpSize + lane];
  out[c] = from_float<T>(total);
}

// ---- instances

// Storage types by suffix, with the lanes of one access: M(suffix, T, V, ...).
#define ADALN_MODULATE_VECTORS(M, ...) \
  M(f32_x4, float, 4, __VA_ARGS__)     \
  M(f32_x1, float, 1, __VA_ARGS__)     \
  M(bf16_x8, bf16, 8, __VA_ARGS__)     \
  M(bf16_x1, bf16, 1, __VA_ARGS__) M(f16_x8, f16, 8, __VA_ARGS__) M(f16_x1, f16, 1, __VA_ARGS__)
#define ADALN_MODULATE_TYPES(M, ...) \
  M(f32, float, 1, __VA_ARGS__) M(bf16, bf16, 1, __VA_ARGS__) M(f16, f16, 1, __VA_ARGS__)

// One block a multiprocessor is enough to ask for: without it ptxas saves registers on sm_100 and sm_120 until it
// spills.
#define ADALN_MODULATE_ROWS(suffix, T, V, ...)                                                              \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                                              \
      adaln_modulate_rows_##suffix(const __grid_constant__ AdalnModulateArgs a) {                           \
    adaln_modulate_rows<T, V>(a);                                                                           \
  }                                                                                                         \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                                              \
      adaln_modulate_backward_rows_##suffix(const __grid_constant__ AdalnModulateBackwardParameters a) {    \
    adaln_modulate_backward_rows<T, V>(a);                                                                  \
  }                                                                                                         \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                                              \
      adaln_modulate_backward_columns_##suffix(const __grid_constant__ AdalnModulateBackwardParameters a) { \
    adaln_modulate_backward_columns<T, V>(a);                                                               \
  }
#define ADALN_MODULATE_SUMS(suffix, T, V, ...)                                                           \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                                           \
      adaln_modulate_backward_sums_##suffix(const __grid_constant__ AdalnModulateBackwardParameters a) { \
    adaln_modulate_backward_sums<T>(a);                                                                  \
  }
ADALN_MODULATE_VECTORS(ADALN_MODULATE_ROWS)
ADALN_MODULATE_TYPES(ADALN_MODULATE_SUMS)

// Every kernel by name, in the order of adaln_modulate_kernel(); every plan by op.
#define ADALN_MODULATE_NAME(suffix, T, V, X, phase) X(phase##_##suffix)
#define ADALN_MODULATE_KERNELS(X)                                                 \
  ADALN_MODULATE_VECTORS(ADALN_MODULATE_NAME, X, adaln_modulate_rows)             \
  ADALN_MODULATE_VECTORS(ADALN_MODULATE_NAME, X, adaln_modulate_backward_rows)    \
  ADALN_MODULATE_VECTORS(ADALN_MODULATE_NAME, X, adaln_modulate_backward_columns) \
  ADALN_MODULATE_TYPES(ADALN_MODULATE_NAME, X, adaln_modulate_backward_sums)
#define ADALN_MODULATE_PLANS(X) \
  X(adaln_modulate, AdalnModulateArgs) X(adaln_modulate_backward, AdalnModulateBackwardArgs)

}  // namespace prestissimo::cuda
