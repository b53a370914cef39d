// SPDX-License-Identifier: Apache-2.0
// Statistics of a row that one block holds.
#pragma once
#include "../ops/adaln_modulate.h"
#include "reduce.cuh"
#include "rows.cuh"

namespace prestissimo::cuda {

// The mean is `mean + rest`: its rounding would otherwise be the largest error of a row that lies far from zero.
struct Statistics {
  float mean, rest, rstd;

  PRESTISSIMO_DEVICE float normalise(float x) const { return ((x - mean) - rest) * rstd; }
};

// Two passes, mean first: no cancellation however far the mean lies from zero. `scratch` has 3 * kMaxWarps floats.
template <class T, int V, int K>
PRESTISSIMO_DEVICE Statistics statistics(const HeldRow<T, V, K>& x, int channels, Norm norm, float eps,
                                         float* scratch) {
  float mean[1] = {0.0f}, moments[2] = {0.0f, 0.0f};  // squares and sum of what the mean leaves
  const bool centred = norm == Norm::layer;
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
      moments[0] += d * d;
      moments[1] += d;
    }
  });
  block_sum(moments, scratch + kMaxWarps);
  const float rest = centred ? moments[1] / channels : 0.0f;
  const float variance = fmaxf(moments[0] / channels - rest * rest, 0.0f);
  // not rsqrtf: once a row its approximation would cost accuracy, not save time
  return {mean[0], rest, 1.0f / sqrtf(variance + eps)};
}

}  // namespace prestissimo::cuda
