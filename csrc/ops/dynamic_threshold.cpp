// SPDX-License-Identifier: Apache-2.0
#include "dynamic_threshold.h"

#include <limits>

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void check_numbers(const char* op, double quantile, double floor) {
  if (!(quantile >= 0 && quantile <= 1)) fail(op, "quantile must be in [0, 1], got " + std::to_string(quantile));
  const auto as_float = static_cast<float>(floor);
  if (!(as_float > 0 && as_float < std::numeric_limits<float>::infinity()))
    fail(op, "floor must be positive and finite as float32, got " + std::to_string(floor));
}

uint32_t* scratch_words(const Checker& check, const Array& scratch, int64_t words) {
  check.dtype("scratch", scratch, DType::int32).same_device("scratch", scratch).contiguous("scratch", scratch);
  check.shape("scratch", scratch, {words});
  return scratch.as<uint32_t>();
}

float* level_pairs(const Checker& check, const Array& levels, int64_t batch) {
  check.dtype("levels", levels, DType::float32).same_device("levels", levels).contiguous("levels", levels);
  check.shape("levels", levels, {batch, 2});
  return levels.as<float>();
}

void dynamic_threshold(Stream stream, const Array& x, double quantile, double floor, const Array& scratch,
                       const Array& y, const Array& levels) {
  constexpr const char* op = "dynamic_threshold";
  const LatentChecker check(op, "x", x);
  check.like("y", y);
  check_numbers(op, quantile, floor);
  const int64_t B = x.size(0), size = sample_size(x);
  uint32_t* words = scratch_words(check.checker(), scratch, threshold_scratch(B, size));
  float* pairs = level_pairs(check.checker(), levels, B);
  if (x.numel() == 0) return;
  const DynamicThresholdArgs a{samples(x), samples_out(y), pairs, words, B, size, quantile, static_cast<float>(floor),
                               x.dtype};
  PRESTISSIMO_RUN(dynamic_threshold, x, a, stream);
}

void dynamic_threshold_backward(Stream stream, const Array& dy, const Array& x, const Array& levels, double quantile,
                                double floor, const Array& scratch, const Array& dx) {
  constexpr const char* op = "dynamic_threshold_backward";
  const LatentChecker check(op, "x", x);
  check.like("dy", dy).like("dx", dx);
  check_numbers(op, quantile, floor);
  const int64_t B = x.size(0), size = sample_size(x);
  uint32_t* words = scratch_words(check.checker(), scratch, threshold_backward_scratch(B, size));
  const float* pairs = level_pairs(check.checker(), levels, B);
  if (x.numel() == 0) return;
  const DynamicThresholdBackwardArgs a{samples(x), samples(dy), samples_out(dx),           pairs,  words, B,
                                       size,       quantile,    static_cast<float>(floor), x.dtype};
  PRESTISSIMO_RUN(dynamic_threshold_backward, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(dynamic_threshold, "x", "quantile", "floor", "scratch", "y", "levels")
PRESTISSIMO_OP(dynamic_threshold_backward, "dy", "x", "levels", "quantile", "floor", "scratch", "dx")

}  // namespace prestissimo
