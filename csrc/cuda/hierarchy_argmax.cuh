// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/hierarchy_argmax.h. One kernel adds w and u, one multiplies: a block has 64 rows of x and goes through
// all columns by tiles of 64, so that the best of a row never leaves its threads. 16-bit products run on the tensor
// cores, tiles of 32 values of E arriving by cp.async in two buffers; float32 in registers of 4 rows by 8 columns.
#pragma once
#include "../ops/hierarchy_argmax.h"
#include "launch.h"
#include "vec.cuh"

namespace prestissimo::cuda {

constexpr int kArgmaxTile = 64, kArgmaxThreads = 128;

// In the order of HIERARCHY_ARGMAX_KERNELS: sums and products of three dtypes; 16-bit products of rows that begin on
// 16 bytes, and of any.
inline LaunchPlan plan(const HierarchyArgmaxArgs& a) {
  constexpr const char* op = "hierarchy_argmax";
  if (a.S > INT32_MAX) fail(op, "subclasses must be at most 2147483647, got " + std::to_string(a.S));
  const int dtype = a.dtype == DType::float32 ? 0 : a.dtype == DType::bfloat16 ? 1 : 2;
  const void* weights = a.classes ? a.workspace : a.subclasses;
  const int64_t strides = a.E | a.x_stride | (a.classes ? a.E : a.subclass_stride);
  const bool aligned = aligned_16(a.x) && aligned_16(weights) && strides % 8 == 0;
  LaunchPlan p;
  if (a.classes) p.add(op, dtype, a.S, kArgmaxThreads);
  p.add(op, dtype == 0 ? 3 : 2 * dtype + 2 + !aligned, ceil_div(a.N, kArgmaxTile), kArgmaxThreads);
  return p;
}
inline const HierarchyArgmaxArgs& parameters(const HierarchyArgmaxArgs& a) { return a; }

PRESTISSIMO_DEVICE int64_t clamped_parent(const HierarchyArgmaxArgs& a, int64_t s) {
  const int64_t c = a.parents[s];
  return c < 0 ? 0 : c < a.C ? c : a.C - 1;
}

template <class T>
PRESTISSIMO_DEVICE void hierarchy_argmax_sums(const HierarchyArgmaxArgs& a) {
  const int64_t s = blockIdx.x;
  const T* w = static_cast<const T*>(a.subclasses) + s * a.subclass_stride;
  const T* u = static_cast<const T*>(a.classes) + clamped_parent(a, s) * a.class_stride;
  T* out = static_cast<T*>(a.workspace) + s * a.E;
#pragma unroll 1
  for (int64_t i = threadIdx.x; i < a.E; i += kArgmaxThreads) out[i] = from_float<T>(to_float(w[i]) + to_float(u[i]));
}

struct BestColumn {
  float value = -INFINITY;
  int column = INT32_MAX;

  // NaN above all numbers, then the larger, then the first.
  PRESTISSIMO_DEVICE void offer(float v, int c) {
    const bool nan = v != v, is_nan = value != value;
    const bool equal = nan == is_nan && (nan || v == value);
    if (equal ? c < column : nan != is_nan ? nan : v > value) {
      value = v;
      column = c;
    }
  }
  // Over `lanes` neighbours, a power of two.
  PRESTISSIMO_DEVICE void join(int lanes) {
    for (int bits = 1; bits < lanes; bits *= 2) {
      const float v = ptx::shuffle_xor(value, bits);
      const int c = ptx::shuffle_xor(column, bits);
      offer(v, c);
    }
  }
};

// The weights that meet x, and how far the tile at a row or column reaches.
template <class T>
struct ArgmaxOperands {
  const T *x, *w;
  int64_t x_stride, w_stride;
  int64_t rows;  // of x from this block's first on

  PRESTISSIMO_DEVICE explicit ArgmaxOperands(const HierarchyArgmaxArgs& a)
      : w(static_cast<const T*>(a.classes ? a.workspace : a.subclasses)),
        x_stride(a.x_stride),
        w_stride(a.classes ? a.E : a.subclass_stride) {
    const int64_t first = int64_t{blockIdx.x} * kArgmaxTile;
    x = static_cast<const T*>(a.x) + first * x_stride;
    rows = a.N - first;
  }
};

PRESTISSIMO_DEVICE void write_class(const HierarchyArgmaxArgs& a, int row, const BestColumn& best) {
  const int64_t i = int64_t{blockIdx.x} * kArgmaxTile + row;
  if (i >= a.N) return;
  const int64_t c = a.parents[best.column];
  a.out[i] = a.classes ? clamped_parent(a, best.column) : c;
}

// ---- 16 bits

constexpr int kArgmaxDepth = 32, kArgmaxPitch = kArgmaxDepth + 8;  // padded rows: ldmatrix finds every bank once

// kArgmaxTile rows of kArgmaxDepth values; zeros beyond `rows` and `depth`.
template <class T, bool kAligned>
PRESTISSIMO_DEVICE void copy_argmax_tile(T* to, const T* from, int64_t stride, int64_t rows, int64_t depth) {
  constexpr int kChunks = kArgmaxDepth / 8;
#pragma unroll
  for (int i = threadIdx.x; i < kArgmaxTile * kChunks; i += kArgmaxThreads) {
    const int row = i / kChunks, column = i % kChunks * 8;
    T* at = to + row * kArgmaxPitch + column;
    if constexpr (kAligned) {
      const bool inside = row < rows && column < depth;
      ptx::cp_async_16(at, inside ? from + row * stride + column : from, inside);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        at[j] = row < rows && column + j < depth ? from[row * stride + column + j] : from_float<T>(0.0f);
    }
  }
}

template <class T, bool kAligned>
PRESTISSIMO_DEVICE void hierarchy_argmax_tensor(const HierarchyArgmaxArgs& a) {
  constexpr int kTileValues = kArgmaxTile * kArgmaxPitch;
  SHARED_ARRAY(T, x_tiles, 2 * kTileValues);
  SHARED_ARRAY(T, w_tiles, 2 * kTileValues);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const ArgmaxOperands<T> m(a);
  const int64_t depths = a.E == 0 ? 1 : (a.E + kArgmaxDepth - 1) / kArgmaxDepth;
  const int64_t steps = (a.S + kArgmaxTile - 1) / kArgmaxTile * depths;
  const auto copy = [&](int64_t step) {
    const int64_t k = step % depths * kArgmaxDepth, n = step / depths * kArgmaxTile, at = (step & 1) * kTileValues;
    copy_argmax_tile<T, kAligned>(x_tiles + at, m.x + k, m.x_stride, m.rows, a.E - k);
    copy_argmax_tile<T, kAligned>(w_tiles + at, m.w + n * m.w_stride + k, m.w_stride, a.S - n, a.E - k);
    ptx::cp_async_commit();
  };

  BestColumn best[2];
  float c[kArgmaxTile / 8][4] = {};
  copy(0);
#pragma unroll 1
  for (int64_t step = 0; step < steps; ++step) {
    if (step + 1 < steps)
      copy(step + 1);
    else
      ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    __syncthreads();
    const T *x_tile = x_tiles + (step & 1) * kTileValues, *w_tile = w_tiles + (step & 1) * kTileValues;
#pragma unroll
    for (int k = 0; k < kArgmaxDepth; k += 16) {
      uint32_t x[4];
      ptx::ldmatrix(x, &x_tile[(warp * 16 + lane % 16) * kArgmaxPitch + k + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < kArgmaxTile / 16; ++n) {
        uint32_t w[4];
        ptx::ldmatrix(w, &w_tile[(n * 16 + lane / 16 * 8 + lane % 8) * kArgmaxPitch + k + lane / 8 % 2 * 8]);
        ptx::mma_m16n8k16<T>(c[2 * n], x, w[0], w[1]);
        ptx::mma_m16n8k16<T>(c[2 * n + 1], x, w[2], w[3]);
      }
    }
    __syncthreads();  // this buffer is free for the step after next
    if ((step + 1) % depths != 0) continue;
    const int64_t first = step / depths * kArgmaxTile;
#pragma unroll
    for (int n = 0; n < kArgmaxTile / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t column = first + n * 8 + lane % 4 * 2 + (i & 1);
        if (column < a.S) best[i / 2].offer(c[n][i], static_cast<int>(column));
        c[n][i] = 0.0f;
      }
  }
  ptx::cp_async_wait<0>();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    best[h].join(4);
    if (lane % 4 == 0) write_class(a, warp * 16 + h * 8 + lane / 4, best[h]);
  }
}

// ---- float32

constexpr int kArgmaxFloatDepth = 16, kArgmaxFloatPitch = kArgmaxTile + 4;
constexpr int kThreadRows = 4, kThreadColumns = 8;

// [kArgmaxFloatDepth][kArgmaxTile]: a column of the tile is one row of the matrix.
PRESTISSIMO_DEVICE void copy_across(float* to, const float* from, int64_t stride, int64_t rows, int64_t depth) {
#pragma unroll
  for (int i = threadIdx.x; i < kArgmaxTile * kArgmaxFloatDepth; i += kArgmaxThreads) {
    const int row = i / kArgmaxFloatDepth, k = i % kArgmaxFloatDepth;
    to[k * kArgmaxFloatPitch + row] = row < rows && k < depth ? from[row * stride + k] : 0.0f;
  }
}

// As a float4: of load()'s uint4 nvcc 13.0 makes one of two programs, by chance from run to run, and one of them has a
// load that nobody needs.
PRESTISSIMO_DEVICE void load_four(const float* from, float* to) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

PRESTISSIMO_DEVICE void hierarchy_argmax_float(const HierarchyArgmaxArgs& a) {
  SHARED_ARRAY(float, x_tile, kArgmaxFloatDepth* kArgmaxFloatPitch);
  SHARED_ARRAY(float, w_tile, kArgmaxFloatDepth* kArgmaxFloatPitch);
  constexpr int kAcross = kArgmaxTile / kThreadColumns;  // threads that share a row
  const int row = threadIdx.x / kAcross * kThreadRows, column = threadIdx.x % kAcross * kThreadColumns;
  const ArgmaxOperands<float> m(a);
  BestColumn best[kThreadRows];
#pragma unroll 1
  for (int64_t n = 0; n < a.S; n += kArgmaxTile) {
    float c[kThreadRows][kThreadColumns] = {};
#pragma unroll 1
    for (int64_t k = 0; k < a.E; k += kArgmaxFloatDepth) {
      copy_across(x_tile, m.x + k, m.x_stride, m.rows, a.E - k);
      copy_across(w_tile, m.w + n * m.w_stride + k, m.w_stride, a.S - n, a.E - k);
      __syncthreads();
#pragma unroll
      for (int d = 0; d < kArgmaxFloatDepth; ++d) {
        float x[kThreadRows], w[kThreadColumns];
        load_four(x_tile + d * kArgmaxFloatPitch + row, x);
        load_four(w_tile + d * kArgmaxFloatPitch + column, w);
        load_four(w_tile + d * kArgmaxFloatPitch + column + 4, w + 4);
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
          for (int j = 0; j < kThreadColumns; ++j) c[i][j] += x[i] * w[j];
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j)
        if (n + column + j < a.S) best[i].offer(c[i][j], static_cast<int>(n + column + j));
  }
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) {
    best[i].join(kAcross);
    if (threadIdx.x % kAcross == 0) write_class(a, row + i, best[i]);
  }
}

#define HIERARCHY_ARGMAX_INSTANCE(name, body)                     \
  extern "C" __global__ void __launch_bounds__(kArgmaxThreads, 1) \
      name(const __grid_constant__ HierarchyArgmaxArgs a) {       \
    body(a);                                                      \
  }
#define HIERARCHY_ARGMAX_ALL(M, X)                                        \
  M(X, hierarchy_argmax_sums_f32, hierarchy_argmax_sums<float>)           \
  M(X, hierarchy_argmax_sums_bf16, hierarchy_argmax_sums<bf16>)           \
  M(X, hierarchy_argmax_sums_f16, hierarchy_argmax_sums<f16>)             \
  M(X, hierarchy_argmax_f32, hierarchy_argmax_float)                      \
  M(X, hierarchy_argmax_bf16, (hierarchy_argmax_tensor<bf16, true>))      \
  M(X, hierarchy_argmax_bf16_any, (hierarchy_argmax_tensor<bf16, false>)) \
  M(X, hierarchy_argmax_f16, (hierarchy_argmax_tensor<f16, true>))        \
  M(X, hierarchy_argmax_f16_any, (hierarchy_argmax_tensor<f16, false>))
#define HIERARCHY_ARGMAX_DEFINE(X, name, body) HIERARCHY_ARGMAX_INSTANCE(name, body)
#define HIERARCHY_ARGMAX_NAME(X, name, body) X(name)
HIERARCHY_ARGMAX_ALL(HIERARCHY_ARGMAX_DEFINE, )

#define HIERARCHY_ARGMAX_KERNELS(X) HIERARCHY_ARGMAX_ALL(HIERARCHY_ARGMAX_NAME, X)
#define HIERARCHY_ARGMAX_PLANS(X) X(hierarchy_argmax, HierarchyArgmaxArgs)

}  // namespace prestissimo::cuda
