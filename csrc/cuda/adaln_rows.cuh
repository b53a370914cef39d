// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/adaln_modulate.h. One block normalises one row; its threads hold the row in registers as far as kHeld
// vectors reach and read the rest of a longer row again in each pass. Sums over time for the per-sample and per-channel
// gradients go through `partial` in fixed blocks of kTimeBlock rows, and are added in a fixed order.
#pragma once
#include "adaln_modulate_plan.h"
#include "column_sums.cuh"
#include "normalise.cuh"

namespace prestissimo::cuda {

// ---- forward

// y from a row x and its statistics; y may be of another type than the row and the vectors.
template <class T, class Y, int V, int K>
PRESTISSIMO_DEVICE void modulate_row(const AdalnModulateArgs& a, const HeldRow<T, V, K>& x, const Statistics& s,
                                     int64_t b, int64_t t, Y* y) {
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  const T *scale = optional_row<T>(a.scale, b, t), *shift = optional_row<T>(a.shift, b, t);
  for_owned<V, K>(static_cast<int>(a.channels), [&](int k, int c) {
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

template <class T, int V>
PRESTISSIMO_DEVICE void adaln_modulate_rows(const AdalnModulateArgs& a) {
  SHARED_ARRAY(float, scratch, 3 * kMaxWarps);
  constexpr int K = kHeld<V>;
  const int C = static_cast<int>(a.channels);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.time), t = blockIdx.x % static_cast<uint32_t>(a.time);
  const HeldRow<T, V, K> x(row_of<T>(a.x, b, t), C);
  modulate_row<T>(a, x, statistics(x, C, a.norm, a.eps, scratch), b, t, row_of<T>(a.y, b, t));
}

// ---- backward: dx, the gradients that have one value for each row, and the row statistics

// sink(b, t, c, dx) gets dx of V channels from c. dy may be of another type D than the row and the vectors.
template <class T, class D, int V, class Sink>
PRESTISSIMO_DEVICE void adaln_backward_rows(const AdalnModulateBackwardParameters& a, Sink sink) {
  SHARED_ARRAY(float, scratch, 5 * kMaxWarps);
  constexpr int K = kHeld<V>;
  const AdalnModulateArgs& f = a.forward;
  const int C = static_cast<int>(f.channels);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(f.time), t = blockIdx.x % static_cast<uint32_t>(f.time);
  const HeldRow<T, V, K> x(row_of<T>(f.x, b, t), C);
  const HeldRow<D, V, K> dy(row_of<D>(a.dy, b, t), C);
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
  for_owned<V, K>(C, [&](int k, int c) {
    float n[V], g[V];
    gradient(k, c, n, g);
#pragma unroll
    for (int i = 0; i < V; ++i) g[i] = s.rstd * (g[i] - mean[0] - n[i] * mean[1]);
    sink(b, t, c, g);
  });
}

template <class T, int V>
PRESTISSIMO_DEVICE void adaln_modulate_backward_rows(const AdalnModulateBackwardParameters& a) {
  adaln_backward_rows<T, T, V>(
      a, [&](int64_t b, int64_t t, int c, const float(&dx)[V]) { store(row_of<T>(a.dx, b, t) + c, dx); });
}

// ---- backward: sums over time

template <class T, class D, int V>
PRESTISSIMO_DEVICE void adaln_modulate_backward_columns(const AdalnModulateBackwardParameters& a) {
  SHARED_ARRAY(float, tile, (kColumnGroups * LaneRow<V>::kFloats));
  const AdalnModulateArgs& f = a.forward;
  const AdalnModulateSums& sums = a.sums;
  const int C = static_cast<int>(f.channels);
  const ColumnPlace<V> at(C, f.time);
  const int64_t b = at.b;
  const int c = at.c;

  float sum[4][V] = {};  // shift, scale, weight, bias
  if (c < C) {
    for (int64_t t = at.begin; t < at.end; t += kColumnGroups) {
      float n[V], d[V], g[V];
      load(row_of<T>(f.x, b, t) + c, n);
      load(row_of<D>(a.dy, b, t) + c, d);
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
    add_groups(at, sum[k], tile, a.partial + ((where[k] * f.batch + b) * a.blocks + at.block) * C + at.first, C);
  }
}

// Adds the rows of `partial` that belong to one output: those of one sample for dshift and dscale, all for dweight and
// dbias. `block` counts from 0.
template <class T>
PRESTISSIMO_DEVICE void adaln_modulate_backward_sums(const AdalnModulateBackwardParameters& a, uint32_t block) {
  SHARED_ARRAY(float, tile, kColumnThreads);
  const AdalnModulateArgs& f = a.forward;
  const AdalnModulateSums& sums = a.sums;
  const int C = static_cast<int>(f.channels);
  const uint32_t tiles = (C + kWarpSize - 1) / kWarpSize;
  const int64_t blocks = a.blocks;
  int64_t output = block / tiles;
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
  const int c = static_cast<int>(block % tiles) * kWarpSize + threadIdx.x % kWarpSize;
  const float total = add_rows(a.partial + (which * f.batch * blocks + row) * C, rows, C, c, tile);
  if (threadIdx.x < kWarpSize && c < C) out[c] = from_float<T>(total);
}

}  // namespace prestissimo::cuda
