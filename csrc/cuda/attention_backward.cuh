// SPDX-License-Identifier: Apache-2.0
// Gradients of attention on the tensor cores, without float atomics: one kernel owns queries and writes dq, one owns
// keys and writes dk and dv. The first one leaves for the second of each row 1 / sum p and sum p dp / sum p. They come
// of a pass of their own over the keys: y . dy in their place would lose the cancellation that makes the gradient of a
// row that looks at one key small.
#pragma once
#include "attention_tiles.cuh"

namespace prestissimo::cuda {

struct RowFactors {
  float *inverse, *delta;  // of the queries of one head and softmax; inverse is negative for the second softmax

  PRESTISSIMO_DEVICE RowFactors(const AttentionBackwardArgs& g, int64_t b, int64_t h, int softmax) {
    const AttentionArgs& a = g.forward;
    inverse = g.rows + ((softmax * a.batch + b) * a.heads + h) * a.queries;
    delta = inverse + a.softmaxes * a.batch * a.heads * a.queries;
  }
};

template <class T, int D>
PRESTISSIMO_DEVICE void attention_dq(const AttentionBackwardParameters& p) {
  constexpr int kKeys = 32, kPitch = D + 8, kBuffer = 2 * kKeys * kPitch;
  static_assert(2 * kKeys == kQueryTile, "queries and their gradients arrive in the buffers of keys and values");
  SHARED_ARRAY(T, shared, 2 * kBuffer);
  const AttentionArgs& a = p.args.forward;
  const HeadPlace at(a, a.heads, a.queries, kQueryTile);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int head_dim = static_cast<int>(a.head_dim), queries = static_cast<int>(a.queries);
  const KeyWindow window(a);
  const int last = at.first + kQueryTile < queries ? at.first + kQueryTile : queries;
  const int begin = window.begin(at.first), end = window.end(last - 1, at.keys);
  const int tiles = end > begin ? (end - begin + kKeys - 1) / kKeys : 0;
  const int row = at.first + warp * 16 + lane / 4;
  const float by = a.scale * kLog2E;
  const T* const V = head_of<T>(a.v, at.b, at.kv_head);

  for (int s = 0; s < a.softmaxes; ++s) {
    const HeadsView &q_view = s ? a.q2 : a.q, &k_view = s ? a.k2 : a.k;
    const T* const K = head_of<T>(k_view, at.b, at.kv_head);
    const auto in_queries = [&](int i) { return i < queries; };
    copy_tile<D>(shared, head_of<T>(q_view, at.b, at.h), q_view.time_stride, at.first, kQueryTile, head_dim, p.aligned,
                 in_queries);
    copy_tile<D>(shared + kBuffer, head_of<T>(p.args.dy, at.b, at.h), p.args.dy.time_stride, at.first, kQueryTile,
                 head_dim, p.aligned, in_queries);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncthreads();
    uint32_t q[D / 16][4], dy[D / 16][4];
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      load_rows<kPitch>(q[k], shared, warp * 16, k);
      load_rows<kPitch>(dy[k], shared + kBuffer, warp * 16, k);
    }
    __syncthreads();

    float lse[2], inverse[2], delta[2] = {0.0f, 0.0f}, total[2] = {0.0f, 0.0f}, dq[D / 8][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) lse[h] = row + 8 * h < queries ? at.lse(a, s)[row + 8 * h] * kLog2E : INFINITY;
    clear<D>(dq);
    for (int pass = 0; pass < 2; ++pass) {
      const auto copy_keys = [&](int t) {
        T* const to = shared + (t & 1) * kBuffer;
        const auto has = [&](int key) { return at.has(key); };
        copy_tile<D>(to, K, k_view.time_stride, begin + t * kKeys, kKeys, head_dim, p.aligned, has);
        copy_tile<D>(to + kKeys * kPitch, V, a.v.time_stride, begin + t * kKeys, kKeys, head_dim, p.aligned, has);
      };
      if (tiles > 0) copy_keys(0);
      ptx::cp_async_commit();
      for (int t = 0; t < tiles; ++t) {
        if (t + 1 < tiles) copy_keys(t + 1);
        ptx::cp_async_commit();
        ptx::cp_async_wait<1>();
        __syncthreads();
        const T *k_tile = shared + (t & 1) * kBuffer, *v_tile = k_tile + kKeys * kPitch;
        float w[kKeys / 8][4], dp[kKeys / 8][4];
        multiply_rows<T, D, kKeys>(w, k_tile, [&](int k, uint32_t(&f)[4]) { copy_fragment(f, q[k]); });
        multiply_rows<T, D, kKeys>(dp, v_tile, [&](int k, uint32_t(&f)[4]) { copy_fragment(f, dy[k]); });
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int h = i >> 1, key = begin + t * kKeys + n * 8 + lane % 4 * 2 + (i & 1), query = row + 8 * h;
            const bool sees = key >= window.begin(query) && key < window.end(query, at.keys) && at.shows(key);
            w[n][i] = sees ? ptx::ex2_approx(__fmaf_rn(w[n][i], by, -lse[h])) : 0.0f;
            if (pass == 0) {
              total[h] += w[n][i];
              delta[h] = __fmaf_rn(w[n][i], dp[n][i], delta[h]);
            } else {
              w[n][i] *= inverse[h] * (dp[n][i] - delta[h]);
            }
          }
        if (pass == 1) add_rows<T, D, kKeys>(dq, w, k_tile);
        __syncthreads();  // this buffer is free for the tile after next
      }
      if (pass == 1) break;
      const RowFactors factors(p.args, at.b, at.h, s);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float sum = quad_sum(total[h]);
        inverse[h] = lse[h] == INFINITY ? 0.0f : 1.0f / sum;  // sees no key: all weights are 0
        delta[h] = quad_sum(delta[h]) * inverse[h];
        inverse[h] = s ? -inverse[h] : inverse[h];
        if (lane % 4 == 0 && row + 8 * h < queries) {
          factors.inverse[row + 8 * h] = inverse[h];
          factors.delta[row + 8 * h] = delta[h];
        }
      }
    }
    write_rows<T, D>(a, p.pairs, s ? p.args.dq2 : p.args.dq, at.b, at.h, at.first + warp * 16, queries,
                     [&](int n, int i) { return dq[n][i] * a.scale; });
  }
}

// A block takes 64 keys of one head, a warp 16 of them; all queries that see one of them pass by.
template <class T, int D>
PRESTISSIMO_DEVICE void attention_dkv(const AttentionBackwardParameters& p) {
  constexpr int kKeys = kKeyTile, kQueries = D == 64 ? 32 : 16, kPitch = D + 8;
  SHARED_ARRAY(T, shared, 2 * (kKeys + kQueries) * kPitch);
  T *const k_tile = shared, *const v_tile = k_tile + kKeys * kPitch, *const q_tile = v_tile + kKeys * kPitch,
           *const dy_tile = q_tile + kQueries * kPitch;
  const AttentionArgs& a = p.args.forward;
  const HeadPlace at(a, a.kv_heads, a.keys, kKeys);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int head_dim = static_cast<int>(a.head_dim), queries = static_cast<int>(a.queries);
  const int group = static_cast<int>(a.heads / a.kv_heads), row = at.first + warp * 16 + lane / 4;
  const KeyWindow window(a);
  const int begin = window.first_query(at.first),
            end = at.first < at.keys ? window.last_query(at.first + kKeys - 1, queries) : 0;
  const float by = a.scale * kLog2E;
  const auto has = [&](int key) { return at.has(key); };
  const auto in_queries = [&](int i) { return i < queries; };

  copy_tile<D>(v_tile, head_of<T>(a.v, at.b, at.h), a.v.time_stride, at.first, kKeys, head_dim, p.aligned, has);
  float dv[D / 8][4];
  clear<D>(dv);
  for (int s = 0; s < a.softmaxes; ++s) {
    const HeadsView &q_view = s ? a.q2 : a.q, &k_view = s ? a.k2 : a.k;
    float dk[D / 8][4];
    clear<D>(dk);
    __syncthreads();  // all warps are done with the other softmax's keys
    copy_tile<D>(k_tile, head_of<T>(k_view, at.b, at.h), k_view.time_stride, at.first, kKeys, head_dim, p.aligned, has);
    for (int g = 0; g < group; ++g) {
      const int64_t h = at.h * group + g;
      const RowFactors factors(p.args, at.b, h, s);
      const float* const lse = a.lse + (factors.inverse - p.args.rows);
      for (int first = begin; first < end; first += kQueries) {
        __syncthreads();  // all warps are done with the queries before
        copy_tile<D>(q_tile, head_of<T>(q_view, at.b, h), q_view.time_stride, first, kQueries, head_dim, p.aligned,
                     in_queries);
        copy_tile<D>(dy_tile, head_of<T>(p.args.dy, at.b, h), p.args.dy.time_stride, first, kQueries, head_dim,
                     p.aligned, in_queries);
        ptx::cp_async_commit();
        ptx::cp_async_wait<0>();
        __syncthreads();
        float w[kQueries / 8][4], dp[kQueries / 8][4];
        multiply_rows<T, D, kQueries>(w, q_tile,
                                      [&](int k, uint32_t(&f)[4]) { load_rows<kPitch>(f, k_tile, warp * 16, k); });
        multiply_rows<T, D, kQueries>(dp, dy_tile,
                                      [&](int k, uint32_t(&f)[4]) { load_rows<kPitch>(f, v_tile, warp * 16, k); });
#pragma unroll
        for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int key = row + 8 * (i >> 1), query = first + n * 8 + lane % 4 * 2 + (i & 1);
            const bool sees =
                query < queries && key >= window.begin(query) && key < window.end(query, at.keys) && at.shows(key);
            const float e = sees ? ptx::ex2_approx(__fmaf_rn(w[n][i], by, -lse[query] * kLog2E)) : 0.0f;
            w[n][i] = sees ? e * factors.inverse[query] : 0.0f;
            dp[n][i] = sees ? w[n][i] * (dp[n][i] - factors.delta[query]) : 0.0f;
          }
        add_rows<T, D, kQueries>(dv, w, dy_tile);
        add_rows<T, D, kQueries>(dk, dp, q_tile);
      }
    }
    ptx::cp_async_commit();  // keys that no query sees were not waited for
    ptx::cp_async_wait<0>();
    write_rows<T, D>(a, p.pairs, s ? p.args.dk2 : p.args.dk, at.b, at.h, at.first + warp * 16, a.keys,
                     [&](int n, int i) { return dk[n][i] * a.scale; });
  }
  write_rows<T, D>(a, p.pairs, p.args.dv, at.b, at.h, at.first + warp * 16, a.keys,
                   [&](int n, int i) { return dv[n][i]; });
}

}  // namespace prestissimo::cuda
