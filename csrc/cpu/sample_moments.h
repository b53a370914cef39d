// SPDX-License-Identifier: Apache-2.0
// Mean and variance of a sample from those of its rows; formulas in ops/hidden_variance.h.
#pragma once
#include "normalise.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

template <class T>
void row_moments(const T* x, int64_t C, float* out) {
  out[0] = sum_lanes(C, [&](int64_t i, int k) { return load(x + i, k); }) / static_cast<float>(C);
  out[1] = squared_deviation(x, C, out[0]);
}

struct SampleMoments {
  float mean, variance;
};
inline SampleMoments sample_moments(const float* partial, int64_t T, int64_t C) {
  double total = 0.0, squares = 0.0;
  for (int64_t t = 0; t < T; ++t) total += static_cast<double>(partial[2 * t]);
  const double mean = total / static_cast<double>(T);
  for (int64_t t = 0; t < T; ++t) {
    const double d = static_cast<double>(partial[2 * t]) - mean;
    squares += static_cast<double>(partial[2 * t + 1]) + static_cast<double>(C) * d * d;
  }
  return {static_cast<float>(mean), static_cast<float>(squares / static_cast<double>(T * C))};
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
