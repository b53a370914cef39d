// SPDX-License-Identifier: Apache-2.0
// What the launch plans of kernels over rows share. Plain C++.
#pragma once
#include <algorithm>

#include "../ops/rows.h"
#include "launch.h"

namespace prestissimo::cuda {

// Whether every row of `lanes` elements to 16 bytes may be read 16 bytes at a time; an absent array may.
template <class View>
bool aligned_rows(const View& v, int64_t lanes) {
  return aligned_16(v.data) && v.batch_stride % lanes == 0 && v.time_stride % lanes == 0;
}

// Channel offsets are 32-bit with room for one step past the end.
inline void check_channels(const char* op, int64_t channels) {
  if (channels > int64_t{1} << 30) fail(op, "x has " + std::to_string(channels) + " channels, more than 2^30");
}

constexpr int kColumnGroups = 8;  // threads that share a column, each taking every 8th row
constexpr int kColumnThreads = kWarpSize * kColumnGroups;

// Elementwise kernels: a thread takes one vector of a row (RowPlace in rows.cuh).
constexpr int kElementwiseThreads = 256;  // at most
inline void add_elementwise(LaunchPlan& p, const char* op, int kernel, int64_t rows, int64_t channels, int64_t lanes) {
  check_channels(op, channels);
  const int64_t vectors = ceil_div(channels, lanes);
  const int64_t block = std::min<int64_t>(ceil_div(vectors, kWarpSize) * kWarpSize, kElementwiseThreads);
  p.add(op, kernel, rows * ceil_div(vectors, block), static_cast<uint32_t>(block));
}

// Position of an instance among those of one phase: the order of FOR_VECTORS and FOR_TYPES in rows.cuh.
inline int type_index(DType t) { return t == DType::float32 ? 0 : t == DType::bfloat16 ? 1 : 2; }
inline int vector_index(DType t, bool vectorised) { return 2 * type_index(t) + (vectorised ? 0 : 1); }
// Of FOR_STREAMS: a residual stream and its branches.
constexpr int kStreams = 10;
inline int stream_index(DType t, DType branch, bool vectorised) {
  return 2 * (t == branch ? type_index(t) : 2 + type_index(branch)) + (vectorised ? 0 : 1);
}

}  // namespace prestissimo::cuda
