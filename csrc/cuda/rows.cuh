// SPDX-License-Identifier: Apache-2.0
// Rows on the device: addresses, the vectors that a thread owns, a row held in registers, one instance for each storage
// type and access width.
#pragma once
#include <type_traits>

#include "rows.h"
#include "vec.cuh"

namespace prestissimo::cuda {

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

// Of an elementwise kernel: the row of this block and the first channel of this thread, which may lie beyond the row.
struct RowPlace {
  int64_t b, t;
  int c;

  PRESTISSIMO_DEVICE RowPlace(int64_t channels, int64_t time, int lanes) {
    const uint32_t step = blockDim.x * lanes, chunks = (static_cast<uint32_t>(channels) + step - 1) / step;
    const uint32_t row = blockIdx.x / chunks;
    b = row / static_cast<uint32_t>(time);
    t = row % static_cast<uint32_t>(time);
    c = static_cast<int>(blockIdx.x % chunks * step + threadIdx.x * lanes);
  }
};

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

// Storage types by suffix, with the lanes of one access: M(suffix, T, V, ...).
#define FOR_VECTORS(M, ...)        \
  M(f32_x4, float, 4, __VA_ARGS__) \
  M(f32_x1, float, 1, __VA_ARGS__) \
  M(bf16_x8, bf16, 8, __VA_ARGS__) \
  M(bf16_x1, bf16, 1, __VA_ARGS__) M(f16_x8, f16, 8, __VA_ARGS__) M(f16_x1, f16, 1, __VA_ARGS__)
// M(suffix, T, B, V, ...): a residual stream of T and its branches of B.
#define FOR_STREAMS(M, ...)                   \
  M(f32_x4, float, float, 4, __VA_ARGS__)     \
  M(f32_x1, float, float, 1, __VA_ARGS__)     \
  M(bf16_x8, bf16, bf16, 8, __VA_ARGS__)      \
  M(bf16_x1, bf16, bf16, 1, __VA_ARGS__)      \
  M(f16_x8, f16, f16, 8, __VA_ARGS__)         \
  M(f16_x1, f16, f16, 1, __VA_ARGS__)         \
  M(f32_bf16_x8, float, bf16, 8, __VA_ARGS__) \
  M(f32_bf16_x1, float, bf16, 1, __VA_ARGS__) \
  M(f32_f16_x8, float, f16, 8, __VA_ARGS__) M(f32_f16_x1, float, f16, 1, __VA_ARGS__)
#define FOR_TYPES(M, ...) M(f32, float, 1, __VA_ARGS__) M(bf16, bf16, 1, __VA_ARGS__) M(f16, f16, 1, __VA_ARGS__)

}  // namespace prestissimo::cuda
