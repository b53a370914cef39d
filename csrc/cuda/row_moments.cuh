// SPDX-License-Identifier: Apache-2.0
// Sums over a row that one block holds.
#pragma once
#include "reduce.cuh"
#include "rows.cuh"

namespace prestissimo::cuda {

// Of a row: its mean (0 where it is not taken away), and sum and squares of what it leaves.
struct Moments {
  float mean, sum, squares;
};

// Two passes, mean first: no cancellation however far the mean lies from zero. `scratch` has 3 * kMaxWarps floats.
template <class T, int V, int K>
PRESTISSIMO_DEVICE Moments moments_of(const HeldRow<T, V, K>& x, int channels, bool centred, float* scratch) {
  float mean[1] = {0.0f}, moments[2] = {0.0f, 0.0f};
  if (centred) {
    for_owned<V, K>(channels, [&](int k, int c) {
      float v[V];
      x.lanes(k, c, v);
#pragma unroll
      for (int i = 0; i < V; ++i) mean[0] += v[i];
    });
    block_sum(mean, scratch);
    mean[0] /= channels;
  }
  for_owned<V, K>(channels, [&](int k, int c) {
    float v[V];
    x.lanes(k, c, v);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float d = v[i] - mean[0];
      moments[0] += d;
      moments[1] += d * d;
    }
  });
  block_sum(moments, scratch + kMaxWarps);
  return {mean[0], moments[0], moments[1]};
}

}  // namespace prestissimo::cuda
