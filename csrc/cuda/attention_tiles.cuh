// SPDX-License-Identifier: Apache-2.0
// Tiles of bfloat16 and float16 rows for the tensor cores, in shared memory, zeros beyond the head dim up to D. Rows
// are padded to D + 8 values, so that ldmatrix finds every bank once.
#pragma once
#include "attention_rows.cuh"

namespace prestissimo::cuda {

template <int D>
struct AttentionShape {
  static constexpr int kKeys = D == 64 ? 64 : 32;  // of a tile: D = 128 needs the registers
  static constexpr int kPitch = D + 8;
  static constexpr int kBuffer = 2 * kKeys * kPitch;  // keys, then values
  static_assert(2 * kKeys >= kQueryTile, "queries arrive in the second buffer");
};

// `rows` rows of a tile, from `first` on, to shared memory; zeros where !has(row).
template <int D, class T, class Has>
PRESTISSIMO_DEVICE void copy_tile(T* to, const T* from, int64_t stride, int first, int rows, int head_dim, bool aligned,
                                  Has has) {
  constexpr uint32_t kChunks = D / 8;
  for (uint32_t i = threadIdx.x; i < rows * kChunks; i += kAttendThreads) {
    const int line = static_cast<int>(i / kChunks), column = static_cast<int>(i % kChunks) * 8, row = first + line;
    T* const there = to + line * AttentionShape<D>::kPitch + column;
    const int inside = has(row) ? head_dim - column : 0;  // values that there are
    const T* const here = from + (inside > 0 ? row * stride + column : 0);
    if (aligned) {
      ptx::cp_async_16(there, here, inside > 0);
    } else {
      Packet<T> packet;
#pragma unroll
      for (int j = 0; j < 8; ++j) packet.lane[j] = j < inside ? here[j] : from_float<T>(0.0f);
      *reinterpret_cast<uint4*>(there) = packet.raw;
    }
  }
}

template <class T>
PRESTISSIMO_DEVICE uint32_t join(float low, float high) {
  uint32_t bits;
  if constexpr (std::is_same_v<T, bf16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&bits, &pair, sizeof(bits));
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&bits, &pair, sizeof(bits));
  }
  return bits;
}

// One A fragment, 16 rows from `row` on, columns 16 k ... of a tile with `kPitch` values to a row.
template <int kPitch, class T>
PRESTISSIMO_DEVICE void load_rows(uint32_t (&a)[4], const T* tile, int row, int k) {
  const int lane = threadIdx.x % kWarpSize;
  ptx::ldmatrix(a, &tile[(row + lane % 16) * kPitch + k * 16 + lane / 16 * 8]);
}

PRESTISSIMO_DEVICE void copy_fragment(uint32_t (&to)[4], const uint32_t (&from)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = from[i];
}

// c = A Bᵀ: 16 rows of fragments a(k, fragment) against the kColumns rows of a tile, over D.
template <class T, int D, int kColumns, class Fragments>
PRESTISSIMO_DEVICE void multiply_rows(float (&c)[kColumns / 8][4], const T* tile, Fragments fragment) {
  constexpr int kPitch = D + 8;
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) c[n][i] = 0.0f;
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    uint32_t a[4];
    fragment(k, a);
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      uint32_t b[4];
      ptx::ldmatrix(b, &tile[(n * 16 + lane / 16 * 8 + lane % 8) * kPitch + k * 16 + lane / 8 % 2 * 8]);
      ptx::mma_m16n8k16<T>(c[2 * n], a, b[0], b[1]);
      ptx::mma_m16n8k16<T>(c[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// out += W B: 16 rows of weights, rounded to T, against kRows rows of a tile.
template <class T, int D, int kRows>
PRESTISSIMO_DEVICE void add_rows(float (&out)[D / 8][4], const float (&w)[kRows / 8][4], const T* tile) {
  constexpr int kPitch = D + 8;
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k) {
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = join<T>(w[2 * k + i / 2][2 * (i & 1)], w[2 * k + i / 2][2 * (i & 1) + 1]);
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      uint32_t b[4];
      ptx::ldmatrix<true>(b, &tile[(k * 16 + lane % 16) * kPitch + n * 16 + lane / 16 * 8]);
      ptx::mma_m16n8k16<T>(out[2 * n], a, b[0], b[1]);
      ptx::mma_m16n8k16<T>(out[2 * n + 1], a, b[2], b[3]);
    }
  }
}

template <int D>
PRESTISSIMO_DEVICE void clear(float (&out)[D / 8][4]) {
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) out[n][i] = 0.0f;
}

// value(n, i) of the fragments, 16 rows from `row` on, to those of `rows` rows of y that there are.
template <class T, int D, class Value>
PRESTISSIMO_DEVICE void write_rows(const AttentionArgs& a, bool pairs, const HeadsOutput& y, int64_t b, int64_t h,
                                   int row, int64_t rows, Value value) {
  const int lane = threadIdx.x % kWarpSize, column = lane % 4 * 2, inside = static_cast<int>(a.head_dim) - column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = row + half * 8 + lane / 4;
    if (t >= rows) continue;
    T* const to = row_of_head<T>(y, b, t, h) + column;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const float low = value(n, 2 * half), high = value(n, 2 * half + 1);
      if (pairs) {
        if (n * 8 < inside) *reinterpret_cast<uint32_t*>(to + n * 8) = join<T>(low, high);
      } else {
        if (n * 8 < inside) to[n * 8] = from_float<T>(low);
        if (n * 8 + 1 < inside) to[n * 8 + 1] = from_float<T>(high);
      }
    }
  }
}

// Sum over the four lanes that share a row of a fragment.
PRESTISSIMO_DEVICE float quad_sum(float v) {
  v += ptx::shuffle_xor(v, 1);
  return v + ptx::shuffle_xor(v, 2);
}

}  // namespace prestissimo::cuda
