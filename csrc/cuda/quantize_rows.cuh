// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/quantize_rows.h. One block a row, which its threads hold in registers as far as kHeld vectors reach.
#pragma once
#include "../ops/quantize_rows.h"
#include "held_rows.h"
#include "reduce.cuh"
#include "rows.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const QuantizeRowsArgs& a) {
  const char* op = "quantize_rows";
  check_channels(op, a.channels);
  const int64_t n = 16 / item_size(a.dtype);
  const bool vectors = a.channels % n == 0 && aligned_rows(a.x, n) && reinterpret_cast<uintptr_t>(a.y.data) % n == 0 &&
                       a.y.batch_stride % n == 0 && a.y.time_stride % n == 0;
  LaunchPlan p;
  p.add(op, vector_index(a.dtype, vectors), a.batch * a.time, row_threads(a.channels, vectors ? n : 1));
  return p;
}
inline const QuantizeRowsArgs& parameters(const QuantizeRowsArgs& a) { return a; }

// V whole numbers in one access.
template <int V>
PRESTISSIMO_DEVICE void store_int8(int8_t* p, const int (&v)[V]) {
  if constexpr (V == 1) {
    *p = static_cast<int8_t>(v[0]);
  } else {
    using Word = std::conditional_t<V == 4, uint32_t, uint64_t>;
    static_assert(sizeof(Word) == V);
    Word word = 0;
#pragma unroll
    for (int i = 0; i < V; ++i) word |= static_cast<Word>(v[i] & 255) << 8 * i;
    *reinterpret_cast<Word*>(p) = word;
  }
}

template <class T, int V>
PRESTISSIMO_DEVICE void quantize_rows(const QuantizeRowsArgs& a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  constexpr int K = kHeld<V>;
  const int C = static_cast<int>(a.channels);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.time), t = blockIdx.x % static_cast<uint32_t>(a.time);
  const HeldRow<T, V, K> x(row_of<T>(a.x, b, t), C);
  const float infinity = __int_as_float(0x7f800000);
  float m = 0.0f;
  for_owned<V, K>(C, [&](int k, int c) {
    float v[V];
    x.lanes(k, c, v);
#pragma unroll
    for (int i = 0; i < V; ++i) m = fmaxf(m, v[i] == v[i] ? fabsf(v[i]) : infinity);
  });
  m = block_max(m, scratch);
  const bool finite = m < infinity;
  const float by = fminf(127.0f / m, 3.40282347e38f);
  if (threadIdx.x == 0) *row_of<float>(a.scale, b, t) = finite ? m / 127.0f : __int_as_float(0x7fc00000);
  int8_t* y = row_of<int8_t>(a.y, b, t);
  for_owned<V, K>(C, [&](int k, int c) {
    float v[V];
    int whole[V];
    x.lanes(k, c, v);
#pragma unroll
    for (int i = 0; i < V; ++i) whole[i] = finite ? static_cast<int>(rintf(v[i] * by)) : 0;
    store_int8(y + c, whole);
  });
}

#define QUANTIZE_ROWS(suffix, T, V, ...)                              \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)        \
      quantize_##suffix(const __grid_constant__ QuantizeRowsArgs a) { \
    quantize_rows<T, V>(a);                                           \
  }
FOR_VECTORS(QUANTIZE_ROWS)

#define QUANTIZE_ROWS_NAME(suffix, T, V, X) X(quantize_##suffix)
#define QUANTIZE_ROWS_KERNELS(X) FOR_VECTORS(QUANTIZE_ROWS_NAME, X)
#define QUANTIZE_ROWS_PLANS(X) X(quantize_rows, QuantizeRowsArgs)

}  // namespace prestissimo::cuda
