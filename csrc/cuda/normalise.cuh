// SPDX-License-Identifier: Apache-2.0
// Statistics of a row that one block holds, and the row normalised by them.
#pragma once
#include "../ops/adaln_modulate.h"
#include "row_moments.cuh"

namespace prestissimo::cuda {

// The mean is `mean + rest`: its rounding would otherwise be the largest error of a row that lies far from zero.
struct Statistics {
  float mean, rest, rstd;

  PRESTISSIMO_DEVICE float normalise(float x) const { return ((x - mean) - rest) * rstd; }
};

// `scratch` has 3 * kMaxWarps floats.
template <class T, int V, int K>
PRESTISSIMO_DEVICE Statistics statistics(const HeldRow<T, V, K>& x, int channels, Norm norm, float eps,
                                         float* scratch) {
  const bool centred = norm == Norm::layer;
  const Moments m = moments_of(x, channels, centred, scratch);
  float rest = 0.0f, variance = m.squares / channels;
  if (centred) {  // else there is nothing to clamp, and fmaxf would make 0 of NaN
    rest = m.sum / channels;
    variance = fmaxf(variance - rest * rest, 0.0f);
  }
  // not rsqrtf: once a row its approximation would cost accuracy, not save time
  return {m.mean, rest, 1.0f / sqrtf(variance + eps)};
}

}  // namespace prestissimo::cuda
