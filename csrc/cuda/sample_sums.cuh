// SPDX-License-Identifier: Apache-2.0
// The sums of ops/sample_sums.h: one kernel leaves the sum of each block in `partial`, and every block of the next one
// adds those of its sample, in an order that depends on their number alone.
#pragma once
#include "../ops/sample_sums.h"
#include "reduce.cuh"
#include "samples.cuh"

namespace prestissimo::cuda {

// The launch of a kernel that begins with block_sums().
inline void add_sum_blocks(LaunchPlan& p, const char* op, int kernel, int64_t batch, int64_t size) {
  p.add(op, kernel, batch * sum_blocks(size), kFlatThreads);
}

// add(b, i, sums) adds the N terms of elements i .. i + V of sample b to sums. Shared memory for N * kMaxWarps floats.
template <int N, int V, class Add>
PRESTISSIMO_DEVICE void block_sums(float* partial, int64_t size, Add add, float* scratch) {
  const uint32_t blocks = static_cast<uint32_t>((size + kSumBlock - 1) / kSumBlock);
  const int64_t b = blockIdx.x / blocks, begin = static_cast<int64_t>(blockIdx.x % blocks) * kSumBlock;
  float sums[N] = {};
#pragma unroll
  for (int k = 0; k < kSumBlock / (kFlatThreads * V); ++k) {
    const int64_t i = begin + (k * kFlatThreads + static_cast<int>(threadIdx.x)) * V;
    if (i < size) add(b, i, sums);
  }
  block_sum(sums, scratch);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int n = 0; n < N; ++n) partial[static_cast<int64_t>(blockIdx.x) * N + n] = sums[n];
  }
}

// The sums of sample b, for every thread of a block of kFlatThreads.
template <int N>
PRESTISSIMO_DEVICE void add_blocks(const float* partial, int64_t b, int64_t size, float (&sums)[N], float* scratch) {
  const int blocks = static_cast<int>((size + kSumBlock - 1) / kSumBlock);
#pragma unroll
  for (int n = 0; n < N; ++n) sums[n] = 0.0f;
  for (int i = threadIdx.x; i < blocks; i += kFlatThreads) {
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] += partial[(b * blocks + i) * N + n];
  }
  block_sum(sums, scratch);
}

}  // namespace prestissimo::cuda
