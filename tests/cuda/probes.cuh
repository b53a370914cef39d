// SPDX-License-Identifier: Apache-2.0
// Small kernels that use what no shipped kernel uses yet (tensor cores, cp.async, votes, atomics, named lanes), so that
// the ground is tested in both lanes before a kernel stands on it. They ship nowhere.
#pragma once
#include <cmath>

#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace prestissimo::cuda {

// ---- attention: O = softmax(scale Q K^T) V for each head, [H, S, 64] bfloat16. Grid (ceil(S / 64), H), 4 warps of 16
// query rows; tiles of 32 keys arrive by cp.async in two buffers; softmax is online, in base 2.

constexpr int kQueries = 64, kKeys = 32, kHead = 64;
constexpr int kPitch = kHead + 8;  // padded rows: ldmatrix finds every bank once
constexpr int kAttentionThreads = 128;

struct AttentionTile {
  const bf16* base;
  int rows;  // of the sequence, from this tile's first on
};

// `count` rows of kHead values to shared memory, zeros past the end of the sequence.
PRESTISSIMO_DEVICE void copy_rows(bf16* to, AttentionTile from, int count) {
  constexpr int kChunks = kHead / 8;
  for (int i = threadIdx.x; i < count * kChunks; i += kAttentionThreads) {
    const int row = i / kChunks, column = i % kChunks * 8;
    const bool inside = row < from.rows;
    ptx::cp_async_16(to + row * kPitch + column, from.base + int64_t{inside ? row : 0} * kHead + column, inside);
  }
}

PRESTISSIMO_DEVICE uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

PRESTISSIMO_DEVICE void attention(const bf16* Q, const bf16* K, const bf16* V, bf16* O, int S, float scale_log2) {
  SHARED_ARRAY(bf16, q_tile, kQueries * kPitch);
  SHARED_ARRAY(bf16, k_tiles, 2 * kKeys * kPitch);
  SHARED_ARRAY(bf16, v_tiles, 2 * kKeys * kPitch);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = blockIdx.x * kQueries, tiles = (S + kKeys - 1) / kKeys;
  const int64_t head = int64_t{blockIdx.y} * S * kHead;

  const auto copy_keys = [&](int t) {
    const int at = (t & 1) * kKeys * kPitch, row = t * kKeys;
    copy_rows(k_tiles + at, {K + head + int64_t{row} * kHead, S - row}, kKeys);
    copy_rows(v_tiles + at, {V + head + int64_t{row} * kHead, S - row}, kKeys);
  };
  copy_rows(q_tile, {Q + head + int64_t{first} * kHead, S - first}, kQueries);
  copy_keys(0);
  ptx::cp_async_commit();

  float out[kHead / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  uint32_t q[kHead / 16][4];
  for (int t = 0; t < tiles; ++t) {
    if (t + 1 < tiles) copy_keys(t + 1);
    ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    __syncthreads();
    const bf16 *k_tile = k_tiles + (t & 1) * kKeys * kPitch, *v_tile = v_tiles + (t & 1) * kKeys * kPitch;
    if (t == 0) {
      for (int k = 0; k < kHead / 16; ++k)
        ptx::ldmatrix(q[k], &q_tile[(warp * 16 + lane % 16) * kPitch + k * 16 + lane / 16 * 8]);
    }
    float score[kKeys / 8][4] = {};
    for (int k = 0; k < kHead / 16; ++k) {
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        ptx::ldmatrix(b, &k_tile[(n * 16 + lane / 16 * 8 + lane % 8) * kPitch + k * 16 + lane / 8 % 2 * 8]);
        ptx::mma_m16n8k16<bf16>(score[2 * n], q[k], b[0], b[1]);
        ptx::mma_m16n8k16<bf16>(score[2 * n + 1], q[k], b[2], b[3]);
      }
    }
    if ((t + 1) * kKeys > S) {
      for (int n = 0; n < kKeys / 8; ++n)
        for (int i = 0; i < 4; ++i)
          if (t * kKeys + n * 8 + lane % 4 * 2 + (i & 1) >= S) score[n][i] = -INFINITY;
    }
    for (int h = 0; h < 2; ++h) {  // rows g and g + 8 of the fragments
      float m = top[h];
      for (int n = 0; n < kKeys / 8; ++n) m = fmaxf(m, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
      m = fmaxf(m, ptx::shuffle_xor(m, 1));
      m = fmaxf(m, ptx::shuffle_xor(m, 2));
      const float fade = ptx::ex2_approx((top[h] - m) * scale_log2), offset = m * scale_log2;
      float added = 0.0f;
      top[h] = m;
      for (int n = 0; n < kKeys / 8; ++n) {
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          score[n][i] = ptx::ex2_approx(score[n][i] * scale_log2 - offset);
          added += score[n][i];
        }
      }
      sum[h] = sum[h] * fade + added;
      for (int n = 0; n < kHead / 8; ++n) {
        out[n][2 * h] *= fade;
        out[n][2 * h + 1] *= fade;
      }
    }
    for (int j = 0; j < kKeys / 16; ++j) {
      uint32_t p[4];
      for (int i = 0; i < 4; ++i)
        p[i] = pack_bf16(score[2 * j + i / 2][2 * (i & 1)], score[2 * j + i / 2][2 * (i & 1) + 1]);
      for (int n = 0; n < kHead / 16; ++n) {
        uint32_t b[4];
        ptx::ldmatrix<true>(b, &v_tile[(j * 16 + lane % 16) * kPitch + n * 16 + lane / 16 * 8]);
        ptx::mma_m16n8k16<bf16>(out[2 * n], p, b[0], b[1]);
        ptx::mma_m16n8k16<bf16>(out[2 * n + 1], p, b[2], b[3]);
      }
    }
    __syncthreads();  // this buffer is free for the tile after next
  }
  ptx::cp_async_wait<0>();
  for (int h = 0; h < 2; ++h) {
    float total = sum[h];
    total += ptx::shuffle_xor(total, 1);
    total += ptx::shuffle_xor(total, 2);
    const int row = first + warp * 16 + h * 8 + lane / 4;
    if (row >= S) continue;
    for (int n = 0; n < kHead / 8; ++n) {
      bf16* to = O + head + int64_t{row} * kHead + n * 8 + lane % 4 * 2;
      *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(out[n][2 * h] / total, out[n][2 * h + 1] / total);
    }
  }
}

// ---- product: C = A B, float16 [M, K] x [K, N] to float32; one warp for 16 x 8 of C, its tiles in its own part of
// dynamic shared memory, handed between its lanes by __syncwarp. Grid (N / 8, M / 32), 2 warps; K, M, N multiples of
// 16, 32, 8.

constexpr int kProductPitch = 24, kProductBytes = 2 * (16 + 16) * kProductPitch * 2;

PRESTISSIMO_DEVICE void product(const f16* A, const f16* B, float* C, int N, int K) {
  DYNAMIC_SHARED(f16, tiles);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  f16 *a_tile = tiles + warp * 32 * kProductPitch, *b_tile = a_tile + 16 * kProductPitch;
  const int row = (blockIdx.y * 2 + warp) * 16, column = blockIdx.x * 8;
  float c[4] = {};
  for (int k = 0; k < K; k += 16) {
    for (int i = lane; i < 256; i += 32) a_tile[i / 16 * kProductPitch + i % 16] = A[(row + i / 16) * K + k + i % 16];
    for (int i = lane; i < 128; i += 32) b_tile[i / 8 * kProductPitch + i % 8] = B[(k + i / 8) * N + column + i % 8];
    __syncwarp();
    uint32_t a[4], b[2];
    ptx::ldmatrix(a, &a_tile[lane % 16 * kProductPitch + lane / 16 * 8]);
    if ((k & 16) == 0) {
      ptx::ldmatrix<true>(b, &b_tile[lane % 16 * kProductPitch]);
    } else {
      uint32_t upper[1], lower[1];
      ptx::ldmatrix<true>(upper, &b_tile[lane % 8 * kProductPitch]);
      ptx::ldmatrix<true>(lower, &b_tile[(8 + lane % 8) * kProductPitch]);
      b[0] = upper[0];
      b[1] = lower[0];
    }
    ptx::mma_m16n8k16<f16>(c, a, b[0], b[1]);
    __syncwarp();
  }
  for (int i = 0; i < 4; ++i) C[(row + lane / 4 + 8 * (i >> 1)) * N + column + 2 * (lane % 4) + (i & 1)] = c[i];
}

// ---- warp operations under full and partial masks: kWarpResults integers for each thread

constexpr int kWarpResults = 16;

PRESTISSIMO_DEVICE void warp_operations(const int* x, unsigned* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
  const int v = x[i];
  unsigned* o = out + i * kWarpResults;
  o[0] = __ballot_sync(ptx::kFullWarp, v > 0);
  o[1] = __any_sync(ptx::kFullWarp, v > 90) | __all_sync(ptx::kFullWarp, v > -90) << 1;
  o[2] = __match_any_sync(ptx::kFullWarp, v & 3);
  o[3] = __reduce_add_sync(ptx::kFullWarp, v);
  o[4] = __reduce_min_sync(ptx::kFullWarp, v);
  o[5] = __reduce_max_sync(ptx::kFullWarp, v);
  o[6] = __reduce_xor_sync(ptx::kFullWarp, static_cast<unsigned>(v));
  o[7] = __shfl_sync(ptx::kFullWarp, v, lane + 5, 8);
  o[8] = __shfl_up_sync(ptx::kFullWarp, v, 3);
  o[9] = __shfl_down_sync(ptx::kFullWarp, v, 3, 16);
  o[10] = __shfl_xor_sync(ptx::kFullWarp, v, 9);
  constexpr unsigned kLower = (1u << 20) - 1;
  if (lane < 20) {
    o[11] = __ballot_sync(kLower, v > 0);
    o[12] = __reduce_add_sync(kLower, v);
    o[13] = __shfl_sync(kLower, v, 19 - lane);
    o[14] = __match_any_sync(kLower, v & 1);
  } else {
    o[11] = __ballot_sync(~kLower, v < 0);
    o[12] = __reduce_max_sync(~kLower, v);
    o[13] = __shfl_sync(~kLower, v, 51 - lane);
    o[14] = __match_any_sync(~kLower, v & 7);
  }
  o[15] = __popc(o[0]) + 64 * __clz(v) + 4096 * __ffs(v);
}

// ---- atomics: a histogram of x mod 8 through shared memory, then extrema, bits and a swap of all values in global
// memory

constexpr int kBins = 8;  // out: bins, maximum, minimum, or of bits, compare-and-swap winner, its claims

PRESTISSIMO_DEVICE void atomics(const int* x, int* out, int n) {
  SHARED_ARRAY(int, bins, kBins);
  if (threadIdx.x < kBins) bins[threadIdx.x] = 0;
  __syncthreads();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    const int v = x[i];
    atomicAdd(&bins[v & (kBins - 1)], 1);
    atomicMax(&out[kBins], v);
    atomicMin(&out[kBins + 1], v);
    atomicOr(&out[kBins + 2], 1 << (v & 31));
    if (atomicCAS(&out[kBins + 3], -1, i) == -1) atomicAdd(&out[kBins + 4], 1);
  }
  __syncthreads();
  if (threadIdx.x < kBins) atomicAdd(&out[threadIdx.x], bins[threadIdx.x]);
}

// ---- instances

extern "C" __global__ void __launch_bounds__(kAttentionThreads)
    probe_attention(const bf16* Q, const bf16* K, const bf16* V, bf16* O, int S, float scale_log2) {
  attention(Q, K, V, O, S, scale_log2);
}
extern "C" __global__ void probe_product(const f16* A, const f16* B, float* C, int N, int K) { product(A, B, C, N, K); }
extern "C" __global__ void probe_warp(const int* x, unsigned* out) { warp_operations(x, out); }
extern "C" __global__ void probe_atomics(const int* x, int* out, int n) { atomics(x, out, n); }
extern "C" __global__ void probe_exp2(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = ptx::ex2_approx(x[i]);
}

#define PROBES_KERNELS(X) X(probe_attention) X(probe_product) X(probe_warp) X(probe_atomics) X(probe_exp2)
#define PROBES_PLANS(X)

}  // namespace prestissimo::cuda
