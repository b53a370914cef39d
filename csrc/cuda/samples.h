// SPDX-License-Identifier: Apache-2.0
// Launch shapes of elementwise passes over the samples of a batch (ops/samples.h). Plain C++.
#pragma once
#include "../ops/samples.h"
#include "launch.h"

namespace prestissimo::cuda {

constexpr int kFlatThreads = 256;
constexpr int kFlatVectors =
    2;  // of one sample that a thread takes: what a sample needs once costs less, loads overlap

// Whether every access may move 16 bytes. `size` elements make a sample.
template <class... View>
bool vectorised_samples(DType dtype, int64_t size, const View&... views) {
  const int64_t lanes = 16 / item_size(dtype);
  return size % lanes == 0 && (... && (aligned_16(views.data) && views.stride % lanes == 0));
}

// In the order of FLAT_TYPES: each dtype, vectors of 16 bytes and then single elements.
inline int flat_kernel(DType dtype, bool vectorised, int phase = 0) {
  const int type = dtype == DType::float32 ? 0 : dtype == DType::bfloat16 ? 1 : 2;
  return phase * 6 + type * 2 + (vectorised ? 0 : 1);
}

inline int type_index(DType dtype) { return flat_kernel(dtype, true) / 2; }

inline int64_t flat_blocks(DType dtype, bool vectorised, int64_t size) {
  const int64_t lanes = vectorised ? 16 / item_size(dtype) : 1;
  return ceil_div(size, kFlatThreads * kFlatVectors * lanes);
}

// Blocks of the kernels whose threads take four channels of one frame each.
constexpr int kNoiseThreads = 128;
inline int64_t noise_blocks(int64_t batch, int64_t channels, int64_t frames) {
  return batch * ceil_div(channels, 4) * ceil_div(frames, kNoiseThreads);
}

}  // namespace prestissimo::cuda
