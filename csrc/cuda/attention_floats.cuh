// SPDX-License-Identifier: Apache-2.0
// Attention in float32, of which tensor cores would lose half the digits.
#pragma once
#include "attention_rows.cuh"
#include "math.cuh"
#include "reduce.cuh"

namespace prestissimo::cuda {

// A warp takes one query: of 32 keys at a time lane j keeps
// the score of key j, and lane c columns c, c + 32 ... of the sums.
struct FloatSums {
  static constexpr int kColumns = kMostHeadDim / kWarpSize;
  float out[kColumns], by;
};

PRESTISSIMO_DEVICE void attend_floats(const AttentionArgs& a, const HeadPlace& at, int query, int softmax,
                                      FloatSums& sums) {
  constexpr int kColumns = FloatSums::kColumns;
  const int lane = threadIdx.x % kWarpSize, head_dim = static_cast<int>(a.head_dim);
  const HeadsView &q_view = softmax ? a.q2 : a.q, &k_view = softmax ? a.k2 : a.k;
  const float *Q = head_of<float>(q_view, at.b, at.h) + query * q_view.time_stride,
              *K = head_of<float>(k_view, at.b, at.kv_head), *V = head_of<float>(a.v, at.b, at.kv_head);
  float q[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const int column = lane + i * kWarpSize;
    q[i] = column < head_dim ? Q[column] : 0.0f;
    sums.out[i] = 0.0f;
  }
  const KeyWindow window(a);
  const int begin = window.begin(query), end = window.end(query, at.keys);
  float most = -INFINITY, total = 0.0f;
  bool seen = false;
  for (int j = begin; j < end; j += kWarpSize) {
    const int count = end - j < kWarpSize ? end - j : kWarpSize;
    float score = -INFINITY;
    for (int key = 0; key < count; ++key) {
      if (!at.shows(j + key)) continue;  // alike for the whole warp
      float product = 0.0f;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int column = lane + i * kWarpSize;
        if (column < head_dim) product = __fmaf_rn(q[i], K[(j + key) * k_view.time_stride + column], product);
      }
      product = warp_sum(product);
      if (lane == key) score = product;
      seen = true;
    }
    const float now = fmaxf(most, warp_max(score)), base = now == -INFINITY ? 0.0f : now;
    const float fade = exponential((most - base) * a.scale), weight = exponential((score - base) * a.scale);
    most = now;
    total = __fmaf_rn(total, fade, warp_sum(weight));
#pragma unroll
    for (int i = 0; i < kColumns; ++i) sums.out[i] *= fade;
    for (int key = 0; key < count; ++key) {
      const float of_key = ptx::shuffle(weight, key);
      if (!at.shows(j + key)) continue;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int column = lane + i * kWarpSize;
        if (column < head_dim) sums.out[i] = __fmaf_rn(of_key, V[(j + key) * a.v.time_stride + column], sums.out[i]);
      }
    }
  }
  float* const lse = at.lse(a, softmax);
  sums.by = finish_row(most, total, seen, a.scale, lse && lane == 0 ? lse + query : nullptr);
}

template <bool kDifferential>
PRESTISSIMO_DEVICE void attention_floats(const AttentionParameters& p) {
  const AttentionArgs& a = p.args;
  const HeadPlace at(a, a.heads, a.queries, kQueriesOfFloats);
  const int query = at.first + threadIdx.x / kWarpSize;
  if (query >= a.queries) return;
  FloatSums one, two;
  attend_floats(a, at, query, 0, one);
  if constexpr (kDifferential) attend_floats(a, at, query, 1, two);
#pragma unroll
  for (int i = 0; i < FloatSums::kColumns; ++i) {
    const int column = threadIdx.x % kWarpSize + i * kWarpSize;
    if (column >= a.head_dim) continue;
    float y = one.out[i] * one.by;
    if constexpr (kDifferential) {
      const float part = two.out[i] * two.by;
      if (a.y2.data) row_of_head<float>(a.y2, at.b, query, at.h)[column] = part;
      y -= part;
    }
    row_of_head<float>(a.y, at.b, query, at.h)[column] = y;
  }
}

}  // namespace prestissimo::cuda
