// SPDX-License-Identifier: Apache-2.0
// Sums and maxima over a warp and over a block, in an order that depends on nothing but the block size: the same bits
// every time.
#pragma once
#include "launch.h"
#include "ptx.cuh"

namespace prestissimo::cuda {

constexpr int kMaxWarps = 32;  // of a block

// A butterfly: every lane ends with the same bits, because a + b = b + a.
PRESTISSIMO_DEVICE float warp_sum(float v) {
#pragma unroll
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) v += ptx::shuffle_xor(v, bits);
  return v;
}

// Sums N values over the block; every thread gets them. `scratch` is shared memory of N * kMaxWarps floats that no
// other call of the kernel uses, so that one barrier is enough. The block size is a multiple of 32.
template <int N>
PRESTISSIMO_DEVICE void block_sum(float (&v)[N], float* scratch) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] = warp_sum(v[i]);
  if (warps == 1) return;
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (lane == 0) scratch[i * kMaxWarps + warp] = v[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] = warp_sum(lane < warps ? scratch[i * kMaxWarps + lane] : 0.0f);
}

// A NaN loses against every number.
PRESTISSIMO_DEVICE float warp_max(float v) {
#pragma unroll
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) v = fmaxf(v, ptx::shuffle_xor(v, bits));
  return v;
}

// The largest value over the block, for every thread; `scratch` as for block_sum, kMaxWarps floats.
PRESTISSIMO_DEVICE float block_max(float v, float* scratch) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  v = warp_max(v);
  if (warps == 1) return v;
  if (lane == 0) scratch[warp] = v;
  __syncthreads();
  return warp_max(scratch[lane < warps ? lane : 0]);
}

}  // namespace prestissimo::cuda
