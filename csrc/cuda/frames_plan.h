// SPDX-License-Identifier: Apache-2.0
// Launch shapes of kernels that transform frames: a block takes some rows or frames of one item. Plain C++.
#pragma once
#include "../ops/inverse_stft.h"
#include "launch.h"

namespace prestissimo::cuda {

constexpr int kFrameThreads = 256;  // at most
constexpr int kRowsOfBlock = 8;     // rows of the signal; overlap - 1 frames more are transformed
constexpr int kFramesOfBlock = 4;   // frames whose spectrum a block makes

// A thread for each butterfly of four points, up to kFrameThreads.
inline uint32_t frame_threads(int64_t n_fft) {
  const int64_t threads = n_fft / 8;
  return static_cast<uint32_t>(threads < kWarpSize ? kWarpSize : threads > kFrameThreads ? kFrameThreads : threads);
}
// The points and the roots of unity; `rows` adds the samples around the current frame.
inline uint32_t frame_bytes(int64_t n_fft, bool rows) { return static_cast<uint32_t>(n_fft * (rows ? 12 : 8)); }

}  // namespace prestissimo::cuda
