// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/qk_norm_rope.h. A group of 1 to 32 lanes holds one head of one row in registers, as units of V pairs:
// the pairs that rotate together, then what is left in twos.
#pragma once
#include "column_sums.cuh"
#include "math.cuh"
#include "qk_norm_rope_plan.h"
#include "reduce.cuh"

namespace prestissimo::cuda {

template <class T, class View>
PRESTISSIMO_DEVICE auto head_of(const View& v, int64_t b, int64_t t, int h) {
  const int64_t offset = b * v.batch_stride + t * v.time_stride + h * v.head_stride;
  if constexpr (std::is_same_v<View, HeadView>)
    return static_cast<const T*>(v.data) + offset;
  else
    return static_cast<T*>(v.data) + offset;
}

template <int V>
struct Pairs {
  float lo[V], hi[V];
};

// Where a unit lies in its head; the last one of an odd head has its first element alone.
struct Unit {
  int first, second, angle;  // of its first pair
  bool there, rotated, whole;
};

template <int V>
PRESTISSIMO_DEVICE Unit unit_of(const QkNormRopeParameters& a, int u) {
  Unit at;
  at.there = u < a.layout.units;
  at.rotated = u < a.layout.rotated;
  at.angle = u * V;
  const bool apart = at.rotated && a.pairing == Pairing::half;
  at.first = apart ? u * V : 2 * u * V;  // what rotates before them has 2 V elements a unit, in either pairing
  at.second = apart ? static_cast<int>(a.half) + u * V : at.first + V;
  at.whole = V > 1 || at.second < a.dim;
  return at;
}

template <int V, class T>
PRESTISSIMO_DEVICE void load_unit(const T* p, const Unit& at, Pairs<V>& v) {
  load(p + at.first, v.lo);
  if (at.whole) {
    load(p + at.second, v.hi);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) v.hi[i] = 0.0f;
  }
}
template <int V, class T>
PRESTISSIMO_DEVICE void store_unit(T* p, const Unit& at, const Pairs<V>& v) {
  store(p + at.first, v.lo);
  if (at.whole) store(p + at.second, v.hi);
}

// Every element of a unit that is there: f(x, of) with `of` the elements of the other units at its place.
template <int V, class F, class... Others>
PRESTISSIMO_DEVICE void for_elements(const Unit& at, F f, Pairs<V>& v, Others&... others) {
#pragma unroll
  for (int i = 0; i < V; ++i) f(v.lo[i], others.lo[i]...);
  if (at.whole)
#pragma unroll
    for (int i = 0; i < V; ++i) f(v.hi[i], others.hi[i]...);
}

PRESTISSIMO_DEVICE void turn(float& a, float& b, float c, float s) {
  const float x = a;
  a = x * c - b * s;
  b = b * c + x * s;
}

// The unit of row t by its angles, or back.
template <int V>
PRESTISSIMO_DEVICE void rotate(const QkNormRopeParameters& a, int64_t t, const Unit& at, bool back, Pairs<V>& v) {
  if (!at.rotated) return;
  float c[V], s[V];
  load(a.cos + t * a.half + at.angle, c);
  load(a.sin + t * a.half + at.angle, s);
#pragma unroll
  for (int i = 0; i < V; ++i) s[i] = back ? -s[i] : s[i];
  if (V == 1 || a.pairing == Pairing::half) {
#pragma unroll
    for (int i = 0; i < V; ++i) turn(v.lo[i], v.hi[i], c[i], s[i]);
  } else if constexpr (V > 1) {
#pragma unroll
    for (int i = 0; i < V / 2; ++i) {
      turn(v.lo[2 * i], v.lo[2 * i + 1], c[i], s[i]);
      turn(v.hi[2 * i], v.hi[2 * i + 1], c[V / 2 + i], s[V / 2 + i]);
    }
  }
}

PRESTISSIMO_DEVICE float group_sum(float v, int group) {
  for (int bits = group / 2; bits > 0; bits /= 2) v += ptx::shuffle_xor(v, bits);
  return v;
}

// The vectors of q or of k that a lane meets.
template <class W, int V>
struct HeadVectors {
  const W *weight, *bias;
  float alpha;

  PRESTISSIMO_DEVICE HeadVectors(const QkNormRopeArgs& a, bool of_k)
      : weight(static_cast<const W*>(of_k ? a.k.weight : a.q.weight)),
        bias(static_cast<const W*>(of_k ? a.k.bias : a.q.bias)) {
    const W* p = static_cast<const W*>(of_k ? a.k.alpha : a.q.alpha);
    alpha = p ? to_float(*p) : 1.0f;
  }
  PRESTISSIMO_DEVICE void load_weight(const Unit& at, Pairs<V>& w) const {
    if (weight) load_unit(weight, at, w);
#pragma unroll
    for (int i = 0; i < V; ++i)
      if (!weight) w.lo[i] = w.hi[i] = 1.0f;
  }
};

// n from x, in place, and what its derivative needs. Lanes without a head take part in the sums.
template <int V>
PRESTISSIMO_DEVICE float normalise(const QkNormRopeParameters& a, bool there, int lane, float alpha,
                                   Pairs<V> (&x)[kUnits<V>]) {
  const auto each = [&](auto f) {
#pragma unroll
    for (int k = 0; k < kUnits<V>; ++k) {
      const Unit at = unit_of<V>(a, lane + k * a.layout.group);
      if (there && at.there) for_elements(at, f, x[k]);
    }
  };
  if (a.norm == HeadNorm::none) return 1.0f;
  if (a.norm == HeadNorm::dyt) {
    each([&](float& v) { v = tanhf(alpha * v); });
    return 1.0f;
  }
  const float D = static_cast<float>(a.dim);
  float mean = 0.0f, rest = 0.0f, squares = 0.0f;  // as Statistics of normalise.cuh
  if (a.norm == HeadNorm::layer) {
    each([&](float& v) { mean += v; });
    mean = group_sum(mean, a.layout.group) / D;
  }
  each([&](float& v) {
    v -= mean;
    rest += v;
    squares += v * v;
  });
  squares = group_sum(squares, a.layout.group) / D;
  if (a.norm == HeadNorm::layer) {  // else there is nothing to clamp, and fmaxf would make 0 of NaN
    rest = group_sum(rest, a.layout.group) / D;
    squares = fmaxf(squares - rest * rest, 0.0f);
  } else {
    rest = 0.0f;
  }
  const float rstd = 1.0f / sqrtf(squares + a.eps);
  each([&](float& v) { v = (v - rest) * rstd; });
  return rstd;
}

template <class W, class T, int V>
PRESTISSIMO_DEVICE void qk_norm_rope_heads(const QkNormRopeParameters& a) {
  constexpr int K = kUnits<V>;
  const int group = a.layout.group, lane = threadIdx.x % group;
  const uint32_t heads = static_cast<uint32_t>(a.q.heads + a.k.heads), time = static_cast<uint32_t>(a.time);
  const uint32_t n = blockIdx.x * (kHeadThreads / group) + threadIdx.x / group;
  const uint32_t row = n / heads, b = row / time, t = row % time;
  const bool there = b < a.batch, of_k = n % heads >= a.q.heads;
  const int h = static_cast<int>(n % heads) - (of_k ? static_cast<int>(a.q.heads) : 0);
  const T* from = of_k ? head_of<T>(a.k.x, b, t, h) : head_of<T>(a.q.x, b, t, h);
  Pairs<V> x[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const Unit at = unit_of<V>(a, lane + k * group);
    if (there && at.there) load_unit(from, at, x[k]);
  }
  const HeadVectors<W, V> by(a, of_k);
  normalise<V>(a, there, lane, by.alpha, x);
  T* to = of_k ? head_of<T>(a.k.y, b, t, h) : head_of<T>(a.q.y, b, t, h);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const Unit at = unit_of<V>(a, lane + k * group);
    if (!there || !at.there) continue;
    Pairs<V> w;
    if (by.weight) {
      load_unit(by.weight, at, w);
      for_elements(at, [](float& v, float& g) { v *= g; }, x[k], w);
    }
    if (by.bias) {
      load_unit(by.bias, at, w);
      for_elements(at, [](float& v, float& g) { v += g; }, x[k], w);
    }
    rotate(a, t, at, false, x[k]);
    store_unit(to, at, x[k]);
  }
}

// The sums of a block's groups, element by element, into `out`: one plane of `tile` for each element of a lane, the
// planes a group apart from each other's banks.
template <int V>
PRESTISSIMO_DEVICE void add_head_groups(const QkNormRopeParameters& a, const Pairs<V> (&sum)[kUnits<V>], float* tile,
                                        float* out) {
  const int group = a.layout.group, plane = kHeadThreads + group;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kUnits<V>; ++k)
#pragma unroll
    for (int i = 0; i < V; ++i) {
      tile[(2 * (k * V + i)) * plane + threadIdx.x] = sum[k].lo[i];
      tile[(2 * (k * V + i) + 1) * plane + threadIdx.x] = sum[k].hi[i];
    }
  __syncthreads();
  for (int e = threadIdx.x; e < 2 * kUnits<V> * V * group; e += kHeadThreads) {
    const int which = e / group, k = which / (2 * V), i = which / 2 % V;
    const Unit at = unit_of<V>(a, e % group + k * group);
    if (!at.there || (which % 2 && !at.whole)) continue;
    float total = 0.0f;
    for (int g = 0; g < kHeadThreads; g += group) total += tile[which * plane + g + e % group];
    out[(which % 2 ? at.second : at.first) + i] = total;
  }
}

// One head of one block of rows: dx, and the head's share of the sums.
template <class W, class T, int V>
PRESTISSIMO_DEVICE void qk_norm_rope_backward_heads(const QkNormRopeBackwardParameters& p) {
  constexpr int K = kUnits<V>;
  SHARED_ARRAY(float, tile, (2 * K * V * (kHeadThreads + kWarpSize)));
  const QkNormRopeParameters& a = p.forward;
  const int group = a.layout.group, lane = threadIdx.x % group, groups = kHeadThreads / group;
  const uint32_t heads = static_cast<uint32_t>(a.q.heads + a.k.heads), item = blockIdx.x / heads;
  const uint32_t blocks = static_cast<uint32_t>(blocks_of(a.time)), b = item / blocks;
  const bool of_k = blockIdx.x % heads >= a.q.heads;
  const int h = static_cast<int>(blockIdx.x % heads) - (of_k ? static_cast<int>(a.q.heads) : 0);
  const int64_t begin = item % blocks * static_cast<int64_t>(kTimeBlock);
  const int64_t end = a.time < begin + kTimeBlock ? a.time : begin + kTimeBlock;
  const HeadVectors<W, V> by(a, of_k);
  const HeadSums sums = of_k ? p.k_sums : p.q_sums;
  const bool normalised = a.norm == HeadNorm::layer || a.norm == HeadNorm::rms;
  Pairs<V> dweight[K] = {}, dbias[K] = {}, dalpha[K] = {};

  for (int64_t first = begin; first < end; first += groups) {  // together, because of the shuffles
    const int64_t t = first + threadIdx.x / group;
    const bool there = t < end;
    const T* x = of_k ? head_of<T>(a.k.x, b, t, h) : head_of<T>(a.q.x, b, t, h);
    const T* dy = of_k ? head_of<T>(p.k.dy, b, t, h) : head_of<T>(p.q.dy, b, t, h);
    Pairs<V> n[K], g[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const Unit at = unit_of<V>(a, lane + k * group);
      if (!there || !at.there) continue;
      load_unit(x, at, n[k]);
      load_unit(dy, at, g[k]);
      rotate(a, t, at, true, g[k]);
    }
    const float rstd = normalise<V>(a, there, lane, by.alpha, n);
    float mean_g = 0.0f, mean_gn = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const Unit at = unit_of<V>(a, lane + k * group);
      if (!there || !at.there) continue;
      for_elements(
          at,
          [](float& du, float& nn, float& dw, float& db) {
            dw += du * nn;
            db += du;
          },
          g[k], n[k], dweight[k], dbias[k]);
      Pairs<V> w;
      by.load_weight(at, w);
      for_elements(
          at,
          [&](float& du, float& nn, float& ww) {
            du *= ww;
            mean_g += du;
            mean_gn += du * nn;
          },
          g[k], n[k], w);
    }
    if (normalised) {
      mean_g = a.norm == HeadNorm::layer ? group_sum(mean_g, group) / static_cast<float>(a.dim) : 0.0f;
      mean_gn = group_sum(mean_gn, group) / static_cast<float>(a.dim);
    }
    T* dx = of_k ? head_of<T>(p.k.dx, b, t, h) : head_of<T>(p.q.dx, b, t, h);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const Unit at = unit_of<V>(a, lane + k * group);
      if (!there || !at.there) continue;
      if (normalised) {
        for_elements(at, [&](float& d, float& nn) { d = rstd * (d - mean_g - nn * mean_gn); }, g[k], n[k]);
      } else if (a.norm == HeadNorm::dyt) {
        Pairs<V> v;
        load_unit(x, at, v);
        for_elements(
            at,
            [&](float& d, float& xx, float& da) {
              d *= 4.0f * sigmoid_and_slope(2.0f * by.alpha * xx).slope;  // 1 - n^2 cancels
              da += d * xx;
              d *= by.alpha;
            },
            g[k], v, dalpha[k]);
      }
      store_unit(dx, at, g[k]);
    }
  }
  const int64_t H = of_k ? a.k.heads : a.q.heads, D = a.dim, plane = a.batch * blocks * H * D;
  float* out = (of_k ? p.k.partial : p.q.partial) + (item * H + h) * D;
  if (sums.weight >= 0) add_head_groups<V>(a, dweight, tile, out + sums.weight * plane);
  if (sums.bias >= 0) add_head_groups<V>(a, dbias, tile, out + sums.bias * plane);
  if (sums.alpha >= 0) add_head_groups<V>(a, dalpha, tile, out + sums.alpha * plane);
}

// One sum of q or of k, 32 dims of it; that of dalpha goes on over all dims.
template <class W>
PRESTISSIMO_DEVICE void qk_norm_rope_sums(const QkNormRopeBackwardParameters& p) {
  SHARED_ARRAY(float, tile, kColumnThreads);
  const QkNormRopeParameters& a = p.forward;
  const int D = static_cast<int>(a.dim), tiles = (D + kWarpSize - 1) / kWarpSize;
  const int which = static_cast<int>(blockIdx.x) / tiles, first = static_cast<int>(blockIdx.x) % tiles;
  const bool of_k = which >= p.q_sums.count;
  const HeadSums sums = of_k ? p.k_sums : p.q_sums;
  const int sum = of_k ? which - p.q_sums.count : which;
  const int64_t rows = a.batch * blocks_of(a.time) * (of_k ? a.k.heads : a.q.heads);
  const float* partial = (of_k ? p.k.partial : p.q.partial) + sum * rows * D;
  const int lane = threadIdx.x % kWarpSize;
  if (sum != sums.alpha) {
    W* out = static_cast<W*>(sum == sums.weight ? (of_k ? p.k.dweight : p.q.dweight) : (of_k ? p.k.dbias : p.q.dbias));
    const int c = first * kWarpSize + lane;
    const float total = add_rows(partial, rows, D, c, tile);
    if (threadIdx.x < kWarpSize && c < D) out[c] = from_float<W>(total);
    return;
  }
  if (first > 0) return;
  float total = 0.0f;
  for (int c = 0; c < D; c += kWarpSize) {
    total += add_rows(partial, rows, D, c + lane, tile);
    __syncthreads();
  }
  total = warp_sum(total);
  if (threadIdx.x == 0) *static_cast<W*>(of_k ? p.k.dalpha : p.q.dalpha) = from_float<W>(total);
}

#define QK_NORM_ROPE_HEADS(suffix, W, T, V, ...)                                                     \
  extern "C" __global__ void __launch_bounds__(kHeadThreads)                                         \
      qk_norm_rope_heads_##suffix(const __grid_constant__ QkNormRopeParameters a) {                  \
    qk_norm_rope_heads<W, T, V>(a);                                                                  \
  }                                                                                                  \
  extern "C" __global__ void __launch_bounds__(kHeadThreads)                                         \
      qk_norm_rope_backward_heads_##suffix(const __grid_constant__ QkNormRopeBackwardParameters a) { \
    qk_norm_rope_backward_heads<W, T, V>(a);                                                         \
  }
#define QK_NORM_ROPE_SUMS(suffix, W, V, ...)                                               \
  extern "C" __global__ void __launch_bounds__(kColumnThreads)                             \
      qk_norm_rope_sums_##suffix(const __grid_constant__ QkNormRopeBackwardParameters a) { \
    qk_norm_rope_sums<W>(a);                                                               \
  }
FOR_STREAMS(QK_NORM_ROPE_HEADS)
FOR_TYPES(QK_NORM_ROPE_SUMS)

#define QK_NORM_ROPE_HEADS_NAME(suffix, W, T, V, X, phase) X(phase##_##suffix)
#define QK_NORM_ROPE_SUMS_NAME(suffix, W, V, X) X(qk_norm_rope_sums_##suffix)
#define QK_NORM_ROPE_KERNELS(X)                                        \
  FOR_STREAMS(QK_NORM_ROPE_HEADS_NAME, X, qk_norm_rope_heads)          \
  FOR_STREAMS(QK_NORM_ROPE_HEADS_NAME, X, qk_norm_rope_backward_heads) \
  FOR_TYPES(QK_NORM_ROPE_SUMS_NAME, X)
#define QK_NORM_ROPE_PLANS(X)     \
  X(qk_norm_rope, QkNormRopeArgs) \
  X(qk_norm_rope_backward, QkNormRopeBackwardArgs)

}  // namespace prestissimo::cuda
