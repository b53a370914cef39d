// SPDX-License-Identifier: Apache-2.0
// Attention on the tensor cores. A block takes 64 queries of one head, a warp 16 of them, whose softmax and sums stay
// in registers; tiles of the keys and values that some query of the block sees arrive by cp.async in two buffers.
#pragma once
#include "attention_tiles.cuh"

namespace prestissimo::cuda {

// One warp's sums over values for its 16 queries; index h is of rows g and g + 8 of the fragments.
template <int D>
struct AttentionSums {
  float out[D / 8][4], by[2];
};

// Behind its last barrier no thread touches `shared`, and no copy is under way.
template <class T, int D>
PRESTISSIMO_DEVICE void attend(const AttentionParameters& p, const HeadPlace& at, int softmax, T* shared,
                               AttentionSums<D>& sums) {
  using Shape = AttentionShape<D>;
  constexpr int kKeys = Shape::kKeys, kPitch = Shape::kPitch;
  const AttentionArgs& a = p.args;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int head_dim = static_cast<int>(a.head_dim), queries = static_cast<int>(a.queries);
  const HeadsView &q_view = softmax ? a.q2 : a.q, &k_view = softmax ? a.k2 : a.k;
  const T *Q = head_of<T>(q_view, at.b, at.h), *K = head_of<T>(k_view, at.b, at.kv_head),
          *V = head_of<T>(a.v, at.b, at.kv_head);
  const KeyWindow window(a);
  const int last = at.first + kQueryTile < queries ? at.first + kQueryTile : queries;
  const int begin = window.begin(at.first), end = window.end(last - 1, at.keys);
  const int tiles = end > begin ? (end - begin + kKeys - 1) / kKeys : 0;

  const auto copy_keys = [&](int t) {
    T* const to = shared + (t & 1) * Shape::kBuffer;
    const auto has = [&](int key) { return at.has(key); };
    copy_tile<D>(to, K, k_view.time_stride, begin + t * kKeys, kKeys, head_dim, p.aligned, has);
    copy_tile<D>(to + kKeys * kPitch, V, a.v.time_stride, begin + t * kKeys, kKeys, head_dim, p.aligned, has);
  };
  copy_tile<D>(shared + Shape::kBuffer, Q, q_view.time_stride, at.first, kQueryTile, head_dim, p.aligned,
               [&](int row) { return row < queries; });
  if (tiles > 0) copy_keys(0);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();
  uint32_t q[D / 16][4];
#pragma unroll
  for (int k = 0; k < D / 16; ++k) load_rows<kPitch>(q[k], shared + Shape::kBuffer, warp * 16, k);
  __syncthreads();  // the second buffer is free

  float most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  int seen[2] = {0, 0};
  const float by = a.scale * kLog2E;
  const int row = at.first + warp * 16 + lane / 4, warp_first = at.first + warp * 16;
  clear<D>(sums.out);

  for (int t = 0; t < tiles; ++t) {
    if (t + 1 < tiles) copy_keys(t + 1);
    ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    __syncthreads();
    const T *k_tile = shared + (t & 1) * Shape::kBuffer, *v_tile = k_tile + kKeys * kPitch;
    float score[kKeys / 8][4];
    multiply_rows<T, D, kKeys>(score, k_tile, [&](int k, uint32_t(&f)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) f[i] = q[k][i];
    });
    const int j = begin + t * kKeys;
    const bool all = !at.mask && j >= window.begin(warp_first + 15) && j + kKeys <= window.end(warp_first, at.keys);
    if (all) {
      seen[0] = seen[1] = 1;
    } else {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = j + n * 8 + lane % 4 * 2 + (i & 1), query = row + 8 * (i >> 1);
          const bool sees = key >= window.begin(query) && key < window.end(query, at.keys) && at.shows(key);
          seen[i >> 1] |= sees;
          score[n][i] = sees ? score[n][i] : -INFINITY;
        }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float now = most[h];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) now = fmaxf(now, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
      now = fmaxf(now, ptx::shuffle_xor(now, 1));
      now = fmaxf(now, ptx::shuffle_xor(now, 2));
      const float base = now == -INFINITY ? 0.0f : now;  // no score yet: weights of 2^-infinity
      const float fade = ptx::ex2_approx((most[h] - base) * by);
      most[h] = now;
      float added = 0.0f;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          score[n][i] = ptx::ex2_approx((score[n][i] - base) * by);
          added += score[n][i];
        }
      total[h] = __fmaf_rn(total[h], fade, added);
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        sums.out[n][2 * h] *= fade;
        sums.out[n][2 * h + 1] *= fade;
      }
    }
    add_rows<T, D, kKeys>(sums.out, score, v_tile);
    __syncthreads();  // this buffer is free for the tile after next
  }
  float* const lse = at.lse(a, softmax);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const bool any = quad_sum(static_cast<float>(seen[h])) > 0.0f;
    const bool writes = lse && lane % 4 == 0 && row + 8 * h < queries;
    sums.by[h] = finish_row(most[h], quad_sum(total[h]), any, a.scale, writes ? lse + row + 8 * h : nullptr);
  }
}

template <class T, int D, bool kDifferential>
PRESTISSIMO_DEVICE void attention_tile(const AttentionParameters& p) {
  SHARED_ARRAY(T, shared, 2 * AttentionShape<D>::kBuffer);
  const HeadPlace at(p.args, p.args.heads, p.args.queries, kQueryTile);
  const auto write = [&](const HeadsOutput& y, auto value) {
    const int row = at.first + threadIdx.x / kWarpSize * 16;
    write_rows<T, D>(p.args, p.pairs, y, at.b, at.h, row, p.args.queries, value);
  };
  AttentionSums<D> one;
  attend<T, D>(p, at, 0, shared, one);
  if constexpr (kDifferential) {
    AttentionSums<D> two;
    attend<T, D>(p, at, 1, shared, two);
    if (p.args.y2.data) write(p.args.y2, [&](int n, int i) { return two.out[n][i] * two.by[i >> 1]; });
    write(p.args.y, [&](int n, int i) { return one.out[n][i] * one.by[i >> 1] - two.out[n][i] * two.by[i >> 1]; });
  } else {
    write(p.args.y, [&](int n, int i) { return one.out[n][i] * one.by[i >> 1]; });
  }
}

}  // namespace prestissimo::cuda
