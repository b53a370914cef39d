// SPDX-License-Identifier: Apache-2.0
// Mean and variance of a sample from those of its rows; formulas in ops/hidden_variance.h.
#pragma once
#include "held_rows.h"
#include "row_moments.cuh"

namespace prestissimo::cuda {

constexpr int kSampleThreads = 256;

// Mean and squared deviations of a row that a block holds; `scratch` has 3 * kMaxWarps floats.
template <class T, int V, int K>
PRESTISSIMO_DEVICE void row_moments(const HeldRow<T, V, K>& x, int channels, float* scratch, float* out) {
  const Moments m = moments_of(x, channels, true, scratch);
  if (threadIdx.x > 0) return;
  out[0] = m.mean + m.sum / channels;
  out[1] = fmaxf(m.squares - m.sum / channels * m.sum, 0.0f);
}

struct SampleMoments {
  float mean, variance;
};
// Of the rows at `partial`, by one block; `scratch` has 2 * kMaxWarps floats.
PRESTISSIMO_DEVICE SampleMoments sample_moments(const float* partial, int64_t time, int64_t channels, float* scratch) {
  float mean[1] = {0.0f}, squares[1] = {0.0f};
  for (int64_t t = threadIdx.x; t < time; t += blockDim.x) mean[0] += partial[2 * t];
  block_sum(mean, scratch);
  mean[0] /= static_cast<float>(time);
  for (int64_t t = threadIdx.x; t < time; t += blockDim.x) {
    const float d = partial[2 * t] - mean[0];
    squares[0] += partial[2 * t + 1] + static_cast<float>(channels) * d * d;
  }
  block_sum(squares, scratch + kMaxWarps);
  return {mean[0], squares[0] / static_cast<float>(time * channels)};
}

}  // namespace prestissimo::cuda
