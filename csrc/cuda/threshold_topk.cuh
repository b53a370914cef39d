// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/threshold_topk.h; the search: threshold_solver.h. One block a row, one sum over it an evaluation.
#pragma once
#include "../ops/threshold_topk.h"
#include "../threshold_solver.h"
#include "topk_rows.cuh"

namespace prestissimo::cuda {

// Half as many as relaxed_topk's: 64 registers a thread are four bytes too few for any power of float32 rows.
constexpr uint32_t kThresholdThreads = kTopkThreads / 2;

// In the order of THRESHOLD_TOPK_KERNELS: forward and backward, sigmoid and power, three dtypes.
inline LaunchPlan threshold_topk_plan(const TopkRows& t, const char* op, int direction, TopkLink link) {
  LaunchPlan p;
  const uint32_t threads = topk_threads(t);
  p.add(op, direction * 6 + (link == TopkLink::power ? 3 : 0) + topk_dtype(t), t.rows,
        threads < kThresholdThreads ? threads : kThresholdThreads);
  return p;
}
inline LaunchPlan plan(const ThresholdTopkArgs& a) { return threshold_topk_plan(a.rows, "threshold_topk", 0, a.link); }
inline LaunchPlan plan(const ThresholdTopkBackwardArgs& a) {
  return threshold_topk_plan(a.rows, "threshold_topk_backward", 1, a.link);
}
inline const ThresholdTopkArgs& parameters(const ThresholdTopkArgs& a) { return a; }
inline const ThresholdTopkBackwardArgs& parameters(const ThresholdTopkBackwardArgs& a) { return a; }

struct ValueAndSlope {
  float value, slope;
};
// h(u) = whole + value, whole = 1 in the upper half of a link and 0 below: docs/threshold_topk.md says why.
struct Residue {
  float value, slope, whole;
};

struct SigmoidLink {
  using Bracket = threshold::SigmoidBracket;
  PRESTISSIMO_DEVICE explicit SigmoidLink(float) {}
  PRESTISSIMO_DEVICE int rounds() const { return threshold::kRounds; }
  PRESTISSIMO_DEVICE ValueAndSlope operator()(float u) const {
    const float e = expf(-fabsf(u)), d = 1.0f / (1.0f + e);
    return {u < 0.0f ? e * d : d, e * d * d};
  }
  PRESTISSIMO_DEVICE Residue residue(float u) const {
    const float e = expf(-fabsf(u)), d = 1.0f / (1.0f + e), ed = e * d;
    return {u < 0.0f ? ed : -ed, ed * d, u < 0.0f ? 0.0f : 1.0f};
  }
};

// clamp(u, 0, 1)^q, at the bounds 0 and 1 whatever e^0 rounds to: k scores at the upper one are to sum to k. What
// rounding puts beside a bound counts as on it. NaN stays.
struct PowerLink {
  using Bracket = threshold::PowerBracket;
  static constexpr float kBeside = 2e-6f;
  float q;
  PRESTISSIMO_DEVICE explicit PowerLink(float exponent) : q(exponent) {}
  PRESTISSIMO_DEVICE int rounds() const { return threshold::kRoundsOfPowers; }
  PRESTISSIMO_DEVICE ValueAndSlope operator()(float u) const {
    if (u != u) return {u, u};
    const float c = fminf(fmaxf(u, 0.0f), 1.0f);
    const float lower = q == 1.0f ? 1.0f : q == 3.0f ? c * c : c > 0.0f && c < 1.0f ? expf((q - 1.0f) * logf(c)) : c;
    return {lower * c, u > kBeside && u < 1.0f - kBeside ? q * lower : 0.0f};
  }
  PRESTISSIMO_DEVICE Residue residue(float u) const {
    const ValueAndSlope v = (*this)(u);
    const float whole = v.value < 0.5f ? 0.0f : 1.0f;
    return {v.value - whole, v.slope, whole};
  }
};

constexpr int kThresholdScratch = 8 * kMaxWarps;

struct RowThreshold {
  float shift, rest;
};

// s.x holds the scores and keeps them; s.y is overwritten. Scratch of kThresholdScratch, taken in turns.
template <class Link>
PRESTISSIMO_DEVICE RowThreshold find_threshold(TopkState& s, const Link& link, int64_t k, float temperature,
                                               float* scratch) {
  if (k <= 0) return {kNoThreshold, 0.0f};
  float ends[2] = {-INFINITY, -INFINITY}, finite[2] = {0.0f, 0.0f};  // highest, minus lowest; count, NaN
  s.each([&](float& x, float&, int64_t) {
    ends[0] = fmaxf(ends[0], x);
    if (x != -INFINITY) ends[1] = fmaxf(ends[1], -x);
    finite[0] += x == -INFINITY ? 0.0f : 1.0f;
    finite[1] += x == -INFINITY ? 0.0f : x - x;
  });
  const float highest = block_max(ends[0], scratch), lowest = -block_max(ends[1], scratch + kMaxWarps);
  block_sum(finite, scratch + 2 * kMaxWarps);
  const float none = (highest - highest) + finite[1];  // NaN of a row that is infinite or NaN
  if (!(none == 0.0f)) return {none, 0.0f};
  if (static_cast<float>(k) >= finite[0]) return {-kNoThreshold, 0.0f};
  const float inverse = 1.0f / temperature, wanted = static_cast<float>(k);
  int turn = 0;
  const auto excess = [&](float shift) {
    float total[3] = {0.0f, 0.0f, 0.0f};
    s.each([&](float&, float& z, int64_t) {
      const Residue r = link.residue(z + shift);
      total[0] += r.value;
      total[1] += r.slope;
      total[2] += r.whole;
    });
    turn ^= 1;
    block_sum(total, scratch + (2 + 3 * turn) * kMaxWarps);
    return threshold::Sums{(total[2] - wanted) + total[0], total[1]};
  };
  s.each([&](float& x, float& z, int64_t) { z = (x - highest) * inverse; });
  const float b =
      threshold::solve_threshold<typename Link::Bracket>(wanted, finite[0], (lowest - highest) * inverse, excess);
  const float shift = highest - b * temperature;
  s.each([&](float& x, float& z, int64_t) { z = (x - shift) * inverse; });
  return {shift, threshold::correct_threshold(link.rounds(), excess)};
}

template <class T, class Link>
PRESTISSIMO_DEVICE void threshold_topk_body(const ThresholdTopkArgs& args) {
  SHARED_ARRAY(float, scratch, (kThresholdScratch + kSelectScratch));
  const TopkRows& t = args.rows;
  const TopkRow<T> row(t, blockIdx.x);
  const Link link(args.exponent);
  TopkState s(args.workspace + row.first, args.workspace + t.size + row.first, row.length);
  s.each([&](float& x, float&, int64_t j) { x = row.score(j); });
  const RowThreshold found = find_threshold(s, link, count_of(t, blockIdx.x), t.temperature, scratch);
  if (threadIdx.x == 0) {
    args.thresholds[2 * int64_t{blockIdx.x}] = found.shift;
    args.thresholds[2 * int64_t{blockIdx.x} + 1] = found.rest;
  }
  T* out = static_cast<T*>(args.out) + row.first;
  if (t.hard && found.shift == found.shift) {
    select_highest(s, row, selected_of(t, blockIdx.x), scratch + kThresholdScratch);
    s.each([&](float& x, float&, int64_t j) { out[j] = from_float<T>(x); });
    return;
  }
  const float inverse = 1.0f / t.temperature;
  s.each([&](float& x, float&, int64_t j) {
    out[j] = from_float<T>(link((x - found.shift) * inverse - found.rest).value);
  });
}

template <class T, class Link>
PRESTISSIMO_DEVICE void threshold_topk_backward_body(const ThresholdTopkBackwardArgs& args) {
  SHARED_ARRAY(float, scratch, 3 * kMaxWarps);
  const TopkRows& t = args.rows;
  const TopkRow<T> row(t, blockIdx.x);
  const Link link(args.exponent);
  const T* dout = static_cast<const T*>(args.dout) + row.first;
  T* dscores = static_cast<T*>(args.dscores) + row.first;
  const float shift = args.thresholds[2 * int64_t{blockIdx.x}], rest = args.thresholds[2 * int64_t{blockIdx.x} + 1];
  const float inverse = 1.0f / t.temperature;
  const auto slope = [&](int64_t j) { return link((row.score(j) - shift) * inverse - rest).slope; };
  float sums[2] = {0.0f, 0.0f}, again[1] = {0.0f};
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < row.length; j += blockDim.x) {
    const float v = slope(j);
    sums[0] += v;
    sums[1] += v * to_float(dout[j]);
  }
  block_sum(sums, scratch);
  const float mean = sums[0] == 0.0f ? 0.0f : sums[1] / sums[0];
  // where one slope outweighs the others, dy - mean cancels there: what rounding took from the mean is measured
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < row.length; j += blockDim.x) again[0] += slope(j) * (to_float(dout[j]) - mean);
  block_sum(again, scratch + 2 * kMaxWarps);
  const float left = sums[0] == 0.0f ? 0.0f : again[0] / sums[0];
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < row.length; j += blockDim.x)
    dscores[j] = from_float<T>(slope(j) * inverse * ((to_float(dout[j]) - mean) - left));
}

#define THRESHOLD_TOPK_TYPES(M, ...) M(f32, float, __VA_ARGS__) M(bf16, bf16, __VA_ARGS__) M(f16, f16, __VA_ARGS__)
#define THRESHOLD_TOPK_INSTANCE(suffix, T, Link, link)                                                 \
  extern "C" __global__ void __launch_bounds__(kThresholdThreads, 1)                                   \
      threshold_topk_##link##_##suffix(const __grid_constant__ ThresholdTopkArgs a) {                  \
    threshold_topk_body<T, Link>(a);                                                                   \
  }                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kThresholdThreads, 1)                                   \
      threshold_topk_backward_##link##_##suffix(const __grid_constant__ ThresholdTopkBackwardArgs a) { \
    threshold_topk_backward_body<T, Link>(a);                                                          \
  }
THRESHOLD_TOPK_TYPES(THRESHOLD_TOPK_INSTANCE, SigmoidLink, sigmoid)
THRESHOLD_TOPK_TYPES(THRESHOLD_TOPK_INSTANCE, PowerLink, power)

#define THRESHOLD_TOPK_NAME(suffix, T, X, name) X(name##_##suffix)
#define THRESHOLD_TOPK_KERNELS(X)                                               \
  THRESHOLD_TOPK_TYPES(THRESHOLD_TOPK_NAME, X, threshold_topk_sigmoid)          \
  THRESHOLD_TOPK_TYPES(THRESHOLD_TOPK_NAME, X, threshold_topk_power)            \
  THRESHOLD_TOPK_TYPES(THRESHOLD_TOPK_NAME, X, threshold_topk_backward_sigmoid) \
  THRESHOLD_TOPK_TYPES(THRESHOLD_TOPK_NAME, X, threshold_topk_backward_power)
#define THRESHOLD_TOPK_PLANS(X) \
  X(threshold_topk, ThresholdTopkArgs) X(threshold_topk_backward, ThresholdTopkBackwardArgs)

}  // namespace prestissimo::cuda
