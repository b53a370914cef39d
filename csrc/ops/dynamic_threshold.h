// SPDX-License-Identifier: Apache-2.0
// For each sample of N elements, |x| in ascending order, rank r = quantile (N - 1), f its fraction:
// low = |x|[floor r],  high = |x|[floor r + 1],  s = max(floor, low + f (high - low))
// y = clip(x, -s, s) / s:  x / s inside, sign(x) where |x| > s
//
// Backward: dx = dy / s inside, 0 outside; unless low + f (high - low) < floor, s moves with two elements, those of
// ranks floor r and floor r + 1 (of equal ones in their order of position): they get (1 - f) ds sign(x) and f ds
// sign(x) besides, with ds = -sum of dy x / s^2 over the inside.
//
// Order is that of the bits of |x| as float32: NaN comes last.
#pragma once
#include "../cpu/isa.h"
#include "sample_sums.h"

namespace prestissimo {

// Ranks and weights of the quantile in a sample.
struct Quantile {
  int64_t low, high;  // ranks, high = low + 1 unless that is none
  double fraction;

  Quantile(double quantile, int64_t size) {
    const double rank = quantile * static_cast<double>(size - 1);
    low = static_cast<int64_t>(rank);
    fraction = rank - static_cast<double>(low);
    high = low + 1 < size ? low + 1 : low;
  }
};

struct DynamicThresholdArgs {
  Samples x;
  SamplesOut y;
  float* levels;      // [B][2]: low, high
  uint32_t* scratch;  // threshold_scratch() words
  int64_t batch, size;
  double quantile;
  float floor;
  DType dtype;
};

struct DynamicThresholdBackwardArgs {
  Samples x, dy;
  SamplesOut dx;
  const float* levels;
  uint32_t* scratch;  // threshold_backward_scratch() words
  int64_t batch, size;
  double quantile;
  float floor;
  DType dtype;
};

// CPU: the keys that may be the quantile, at most all of them, and two counts for each block of kSumBlock elements.
// GPU: histograms of 11, 10 and 10 bits of the keys, the later two for each of the two ranks.
constexpr int64_t kHistogramWords = (1 << 11) + 2 * (1 << 10) + 2 * (1 << 10);
inline int64_t threshold_scratch(int64_t batch, int64_t size) {
  const int64_t keys = size + 2 * sum_blocks(size);
  return batch * (keys > kHistogramWords ? keys : kHistogramWords);
}
// For each block of kSumBlock elements: a sum in two words, and how many |x| are below and at each level.
constexpr int64_t kBlockWords = 6;
inline int64_t threshold_backward_scratch(int64_t batch, int64_t size) {
  return batch * sum_blocks(size) * kBlockWords;
}

namespace cuda {
void dynamic_threshold(const DynamicThresholdArgs&, Stream);
void dynamic_threshold_backward(const DynamicThresholdBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(dynamic_threshold, DynamicThresholdArgs)
PRESTISSIMO_CPU_KERNEL(dynamic_threshold_backward, DynamicThresholdBackwardArgs)
