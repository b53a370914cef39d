// SPDX-License-Identifier: Apache-2.0
// Sums over a warp and over a block, in an order that depends on nothing but the block size: the same bits every time.
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

}  // namespace prestissimo::cuda
