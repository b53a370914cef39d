// SPDX-License-Identifier: Apache-2.0
// Kernels with exactly one fault each, and their faultless twins, to test the checkers of both lanes. One block of 64
// threads unless the table in test_checkers.py says otherwise; x has 64 integers, y is uninitialised and has 64.
#pragma once
#include "cuda/launch.h"
#include "cuda/vec.cuh"

#define MISBEHAVED(name) extern "C" __global__ void name([[maybe_unused]] const int* x, int* y)

namespace prestissimo::cuda {

MISBEHAVED(race_between_warps) {
  SHARED_ARRAY(int, s, 64);
  s[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = s[threadIdx.x ^ 32];
}
MISBEHAVED(ordered_by_block_barrier) {
  SHARED_ARRAY(int, s, 64);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 32];
  __syncthreads();
  s[threadIdx.x] = 0;
}
MISBEHAVED(write_after_read) {
  SHARED_ARRAY(int, s, 64);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 32];
  s[threadIdx.x] = 0;
}
MISBEHAVED(race_inside_a_warp) {
  SHARED_ARRAY(int, s, 64);
  s[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}
MISBEHAVED(ordered_by_warp_barrier) {
  SHARED_ARRAY(int, s, 64);
  s[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 1];
  __syncwarp();
  s[threadIdx.x ^ 3] = 0;
}
MISBEHAVED(ordered_by_partial_warp_barrier) {
  SHARED_ARRAY(int, s, 64);
  s[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x % 32 < 8)
    __syncwarp(0xff);
  else
    __syncwarp(~0xffu);
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}
MISBEHAVED(partial_warp_barrier_of_other_lanes) {
  SHARED_ARRAY(int, s, 64);
  s[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x % 32 < 8)
    __syncwarp(0xff);
  else
    __syncwarp(~0xffu);
  y[threadIdx.x] = s[threadIdx.x ^ 8];
}
MISBEHAVED(blocks_write_the_same) { y[threadIdx.x] = x[threadIdx.x] + blockIdx.x; }
MISBEHAVED(block_reads_what_another_writes) {
  if (blockIdx.x == 0) {
    y[threadIdx.x] = x[threadIdx.x];
  } else if (y[threadIdx.x] == 12345) {
    y[threadIdx.x] = 1;
  }
}
MISBEHAVED(plain_read_beside_atomics) {
  SHARED_ARRAY(int, s, 1);
  if (threadIdx.x == 0) s[0] = 0;
  __syncthreads();
  atomicAdd(&s[0], 1);
  y[threadIdx.x] = s[0];
}
MISBEHAVED(atomics_alone) {
  SHARED_ARRAY(int, s, 1);
  if (threadIdx.x == 0) s[0] = 0;
  __syncthreads();
  atomicAdd(&s[0], 1);
  __syncthreads();
  y[threadIdx.x] = s[0];
}
MISBEHAVED(shared_never_written) {
  SHARED_ARRAY(int, s, 64);
  if (threadIdx.x < 63) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
MISBEHAVED(global_never_written) { y[threadIdx.x] = y[threadIdx.x ^ 1] + x[threadIdx.x]; }
MISBEHAVED(global_past_the_end) { y[threadIdx.x] = x[threadIdx.x + 1]; }
MISBEHAVED(store_before_the_start) { y[static_cast<int>(threadIdx.x) - 1] = x[threadIdx.x]; }
MISBEHAVED(shared_past_the_end) {
  SHARED_ARRAY(int, s, 63);
  s[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = s[threadIdx.x];
}
MISBEHAVED(misaligned_vector) {
  if (threadIdx.x >= 15) return;
  const uint4 v = reinterpret_cast<const uint4*>(x + 1)[threadIdx.x];
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
MISBEHAVED(copy_not_waited_for) {
  SHARED_ARRAY(uint4, s, 16);
  if (threadIdx.x < 16) ptx::cp_async_16(&s[threadIdx.x], x + 4 * threadIdx.x);
  ptx::cp_async_commit();
  y[threadIdx.x] = threadIdx.x < 16 ? s[threadIdx.x].x : 0;
  ptx::cp_async_wait<0>();
}
MISBEHAVED(copy_waited_for_by_another) {
  SHARED_ARRAY(uint4, s, 16);
  if (threadIdx.x < 16) ptx::cp_async_16(&s[threadIdx.x], x + 4 * threadIdx.x);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  y[threadIdx.x] = s[threadIdx.x / 4].x;
}
MISBEHAVED(copy_handed_over) {
  SHARED_ARRAY(uint4, s, 16);
  if (threadIdx.x < 16) ptx::cp_async_16(&s[threadIdx.x], x + 4 * threadIdx.x, threadIdx.x != 5);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x / 4].x;
}
MISBEHAVED(copy_in_flight_at_exit) {
  SHARED_ARRAY(uint4, s, 16);
  if (threadIdx.x < 16) ptx::cp_async_16(&s[threadIdx.x], x + 4 * threadIdx.x);
  ptx::cp_async_commit();
  y[threadIdx.x] = 0;
}
MISBEHAVED(barrier_and_shuffle_wait_for_each_other) {
  int v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16)
    __syncthreads();
  else
    v = __shfl_xor_sync(ptx::kFullWarp, v, 1);
  y[threadIdx.x] = v;
}
MISBEHAVED(shuffle_after_half_the_warp_left) {
  if (threadIdx.x % 32 >= 16) return;
  y[threadIdx.x] = __shfl_xor_sync(ptx::kFullWarp, x[threadIdx.x], 1);
}
MISBEHAVED(caller_not_in_its_mask) {
  y[threadIdx.x] = threadIdx.x % 32 < 17 ? __ballot_sync(0xffff, x[threadIdx.x] > 0) : 0;
}
MISBEHAVED(shuffle_from_outside_the_mask) {
  int v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v = __shfl_sync(0xffff, v, 20);
  y[threadIdx.x] = v;
}
MISBEHAVED(early_exit_and_barrier) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

#define MISBEHAVED_KERNELS(X)                                                                                      \
  X(race_between_warps)                                                                                            \
  X(ordered_by_block_barrier) X(write_after_read) X(race_inside_a_warp) X(ordered_by_warp_barrier)                 \
      X(ordered_by_partial_warp_barrier) X(partial_warp_barrier_of_other_lanes) X(blocks_write_the_same)           \
          X(block_reads_what_another_writes) X(plain_read_beside_atomics) X(atomics_alone) X(shared_never_written) \
              X(global_never_written) X(global_past_the_end) X(store_before_the_start) X(shared_past_the_end)      \
                  X(misaligned_vector) X(copy_not_waited_for) X(copy_waited_for_by_another) X(copy_handed_over)    \
                      X(copy_in_flight_at_exit) X(barrier_and_shuffle_wait_for_each_other)                         \
                          X(shuffle_after_half_the_warp_left) X(caller_not_in_its_mask)                            \
                              X(shuffle_from_outside_the_mask) X(early_exit_and_barrier)
#define MISBEHAVED_PLANS(X)

}  // namespace prestissimo::cuda
