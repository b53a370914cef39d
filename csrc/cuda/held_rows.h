// SPDX-License-Identifier: Apache-2.0
// Launches of a block a row, whose threads hold the row in registers (HeldRow in rows.cuh). Plain C++.
#pragma once
#include <algorithm>

#include "launch.h"

namespace prestissimo::cuda {

template <int V>
constexpr int kHeld = V == 1 ? 4 : 2;  // vectors of a row that a thread holds
constexpr int kRowThreads = 512;       // at most

inline uint32_t row_threads(int64_t channels, int64_t lanes) {
  const int64_t held = lanes > 1 ? kHeld<4> * lanes : kHeld<1>;
  const int64_t warps = ceil_div(channels, held * kWarpSize);
  return static_cast<uint32_t>(std::clamp<int64_t>(warps * kWarpSize, kWarpSize, kRowThreads));
}

}  // namespace prestissimo::cuda
