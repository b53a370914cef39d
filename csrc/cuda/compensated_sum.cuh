// SPDX-License-Identifier: Apache-2.0
// Sums of terms that cancel: eager's may be right by luck, and ours are held to twice that. What rounding takes from a
// sum is added up beside it (Knuth's two-sum), through warps and blocks too.
#pragma once
#include "reduce.cuh"

namespace prestissimo::cuda {

struct CompensatedSum {
  float value = 0.0f, lost = 0.0f;  // `lost`: what rounding took from `value`

  PRESTISSIMO_DEVICE double total() const { return __dadd_rn(value, lost); }
  // The same bits whichever of two sums takes the other in.
  PRESTISSIMO_DEVICE void add(const CompensatedSum& o) {
    const float next = value + o.value, step = next - value;
    const float error = (value - (next - step)) + (o.value - step);
    lost = (lost + o.lost) + (error == error ? error : 0.0f);  // none of an infinity
    value = next;
  }
  PRESTISSIMO_DEVICE void add_product(float a, float b) {
    const float p = __fmul_rn(a, b), error = fmaf(a, b, -p);
    add({p, error == error ? error : 0.0f});
  }
};

PRESTISSIMO_DEVICE CompensatedSum warp_sum(CompensatedSum v) {
#pragma unroll
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2)
    v.add({ptx::shuffle_xor(v.value, bits), ptx::shuffle_xor(v.lost, bits)});
  return v;
}

// Of a block of at most kMaxWarps whole warps, for every thread; `scratch` as for block_sum of two values.
PRESTISSIMO_DEVICE CompensatedSum block_sum(CompensatedSum v, float* scratch) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  v = warp_sum(v);
  if (lane == 0) {
    scratch[warp] = v.value;
    scratch[kMaxWarps + warp] = v.lost;
  }
  __syncthreads();
  v = {};
  if (lane < warps) v = {scratch[lane], scratch[kMaxWarps + lane]};
  return warp_sum(v);
}

}  // namespace prestissimo::cuda
