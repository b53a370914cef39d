// SPDX-License-Identifier: Apache-2.0
// Formula: ops/peak_phase.h. What a frame owes to its own magnitudes is made for all frames at once: the peak that each
// bin follows, and the turns that it goes ahead of that peak. Then one block an item adds them up, frame after frame.
#pragma once
#include "../ops/peak_phase.h"
#include "launch.h"
#include "ptx.cuh"

namespace prestissimo::cuda {

constexpr int kRegionThreads = 256, kTurnThreads = 512;
constexpr int64_t kMostPeakBins = 6144;  // two integers a bin in shared memory

inline LaunchPlan plan(const PeakPhaseArgs& a) {
  if (a.bins > kMostPeakBins)
    fail("peak_phase", "log_magnitude has " + std::to_string(a.bins) + " bins, more than 6144 on a GPU");
  const uint32_t bytes = static_cast<uint32_t>(8 * a.bins);
  LaunchPlan p;
  p.add("peak_phase", 0, a.batch * a.frames, kRegionThreads, bytes);
  p.add("peak_phase", 1, a.batch, kTurnThreads, bytes);
  return p;
}
inline const PeakPhaseArgs& parameters(const PeakPhaseArgs& a) { return a; }

// Every operation rounds as the reference's does, so that all bits agree.
PRESTISSIMO_DEVICE uint32_t peak_advance(const float* v, int k, int bins, double cycles) {
  float offset = 0.0f;
  if (k > 0 && k < bins - 1) {
    const float left = v[k - 1], right = v[k + 1];
    const float bend = __fadd_rn(__fadd_rn(left, -2.0f * v[k]), right);
    offset = __fdiv_rn(0.5f * __fadd_rn(left, -right), bend);
    offset = offset < -0.5f ? -0.5f : offset > 0.5f ? 0.5f : offset == offset ? offset : 0.0f;
  }
  const double advance = __dmul_rn(static_cast<double>(k) + static_cast<double>(offset), cycles);
  const double fraction = __dadd_rn(advance, -static_cast<double>(static_cast<int64_t>(advance)));
  return static_cast<uint32_t>(static_cast<int64_t>(fraction * 4294967296.0)) + (static_cast<uint32_t>(k) << 31);
}

struct SpectrumRow {
  const float* v;
  int bins;
  PRESTISSIMO_DEVICE bool rises(int j) const { return j + 1 < bins && v[j + 1] > v[j]; }
  PRESTISSIMO_DEVICE bool starts(int j) const { return j == 0 || (rises(j) && !rises(j - 1)); }
  PRESTISSIMO_DEVICE bool peaks(int j) const { return !rises(j) && (j == 0 || rises(j - 1)); }
};

// One block a frame, each thread some bins in a row. A region is known by the bin that it starts at. Asked for one
// block a multiprocessor, as adaln_modulate.cuh is, ptxas does not save registers until it spills (sm_100).
extern "C" __global__ void __launch_bounds__(kRegionThreads, 1)
    peak_phase_regions(const __grid_constant__ PeakPhaseArgs a) {
  DYNAMIC_SHARED(int, peak_of);  // [F], at the starts of regions
  SHARED_ARRAY(int, last_of_warp, kRegionThreads / kWarpSize);
  const int F = static_cast<int>(a.bins);
  uint32_t* const ahead_of = reinterpret_cast<uint32_t*>(peak_of + F);
  const int64_t b = blockIdx.x / a.frames, t = blockIdx.x % a.frames;
  const SpectrumRow row{a.log_magnitude + b * a.batch_stride + t * a.frame_stride, F};
  const int share = (F + kRegionThreads - 1) / kRegionThreads;
  const int first = static_cast<int>(threadIdx.x) * share, end = first + share < F ? first + share : F;

  // the last start in this thread's bins, then in those of all threads before it
  int start = -1;
  for (int j = first; j < end; ++j)
    if (row.starts(j)) start = j;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  int upto = start;
#pragma unroll
  for (int d = 1; d < kWarpSize; d *= 2) {
    const int other = __shfl_up_sync(ptx::kFullWarp, upto, d);
    if (lane >= d && other > upto) upto = other;
  }
  if (lane == kWarpSize - 1) last_of_warp[warp] = upto;
  int before = __shfl_up_sync(ptx::kFullWarp, upto, 1);
  if (lane == 0) before = -1;
  __syncthreads();
  for (int w = 0; w < warp; ++w)
    if (last_of_warp[w] > before) before = last_of_warp[w];

  const double cycles = static_cast<double>(a.hop) / static_cast<double>(2 * (F - 1));
  start = before;
  for (int j = first; j < end; ++j) {
    if (row.starts(j)) start = j;
    if (row.peaks(j)) {
      peak_of[start] = j;
      ahead_of[start] = peak_advance(row.v, j, F, cycles);
    }
  }
  __syncthreads();
  const int64_t at = (b * a.frames + t) * F;
  start = before;
  for (int j = first; j < end; ++j) {
    if (row.starts(j)) start = j;
    a.sources[at + j] = peak_of[start];
    a.phase[at + j] = __uint_as_float(ahead_of[start] + (static_cast<uint32_t>(j) << 31));
  }
}

// One block an item. The next frame's peaks and turns are on their way while this frame's phases are added.
extern "C" __global__ void __launch_bounds__(kTurnThreads, 1)
    peak_phase_turns(const __grid_constant__ PeakPhaseArgs a) {
  DYNAMIC_SHARED(uint32_t, turns);  // [2][F]: the frame before, this frame
  constexpr int kHeld = 3;          // bins of a frame that a thread holds
  const int F = static_cast<int>(a.bins), step = static_cast<int>(blockDim.x);
  const int64_t b = blockIdx.x;
  uint32_t *before = turns, *now = turns + F;
  for (int j = threadIdx.x; j < F; j += step) before[j] = a.state ? static_cast<uint32_t>(a.state[b * F + j]) : 0u;
  int source[kHeld];
  uint32_t ahead[kHeld];
  const auto fetch = [&](int64_t t) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int j = threadIdx.x + i * step;
      if (j >= F || t >= a.frames) continue;
      source[i] = a.sources[(b * a.frames + t) * F + j];
      ahead[i] = __float_as_uint(a.phase[(b * a.frames + t) * F + j]);
    }
  };
  fetch(0);
  __syncthreads();
  for (int64_t t = 0; t < a.frames; ++t) {
    const int64_t at = (b * a.frames + t) * F;
    const auto add = [&](int j, int from, uint32_t by) {
      const uint32_t v = before[from] + by;
      now[j] = v;
      a.phase[at + j] =
          static_cast<float>(static_cast<int32_t>(v)) * static_cast<float>(6.283185307179586 / 4294967296.0);
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (static_cast<int>(threadIdx.x) + i * step < F) add(threadIdx.x + i * step, source[i], ahead[i]);
    for (int j = threadIdx.x + kHeld * step; j < F; j += step)
      add(j, a.sources[at + j], __float_as_uint(a.phase[at + j]));
    fetch(t + 1);
    __syncthreads();
    uint32_t* const last = before;
    before = now;
    now = last;
  }
  for (int j = threadIdx.x; j < F; j += step) a.next_state[b * F + j] = static_cast<int32_t>(before[j]);
}

#define PEAK_PHASE_KERNELS(X) X(peak_phase_regions) X(peak_phase_turns)
#define PEAK_PHASE_PLANS(X) X(peak_phase, PeakPhaseArgs)

}  // namespace prestissimo::cuda
