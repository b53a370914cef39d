// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/threshold_topk.h. A row is read once; its scores stay in cache for the five to ten sums that find the
// threshold. Both directions, one Zen 4 core, float32, beside 32 halvings in eager PyTorch: on Lead-AE's onsets (2560
// rows of up to 32, 1600 of up to 200) sigmoids take 320 and 414 us, 26 and 59 times less; on 64 rows of 4096 1.6 ms,
// 15 times less. Projection onto the capped simplex (p = 2) takes a sixth of entmax's time there, the transport plan
// 1/19 of what POT takes for values alone, in float64.
#include "../ops/threshold_topk.h"

#include "math.h"
#include "topk_rows.h"
#define PRESTISSIMO_THRESHOLD_NAMESPACE prestissimo::cpu::PRESTISSIMO_ISA
#include "../threshold_solver.h"
#include "threshold_topk_lanes.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int64_t kGrainScores = 1024;

using ValueAndSlope = SigmoidAndSlope;

struct Sigmoid {
  using Bracket = SigmoidBracket;
  using Lanes = SigmoidLanes;
  static constexpr int kCorrections = kRounds;
  ValueAndSlope operator()(Vec u) const { return sigmoid_and_slope(u); }
  // -e / (1 + e) from 0 on, e / (1 + e) below: neither cancels, and minus infinity has 0.
  Residue residue(Vec u) const {
    const SigmoidTerms t = sigmoid_terms(u);
    const Vec ed = t.e * t.d;
    const Mask below = less(u, zero());
    return {select(below, ed, zero() - ed), ed * t.d, below};
  }
  // The result itself, once a score: a division errs less than the reciprocal of the sums.
  Vec value(Vec u) const {
    const Vec e = exp(zero() - magnitude(u)), one = broadcast(1.0f);
    return select(less(u, zero()), e, one) / (one + e);
  }
};

// clamp(u, 0, 1)^Q; Q = 0: any power. What rounding puts beside a bound counts as on it.
template <int Q>
struct Power {
  using Bracket = PowerBracket;
  using Lanes = PowerLanes;
  static constexpr int kCorrections = Q == 1 ? kRounds : kRoundsOfPowers;
  static constexpr float kBeside = 2e-6f;
  float q;
  ValueAndSlope operator()(Vec u) const {
    const Vec c = max(zero(), min(broadcast(1.0f), u));  // in this order a NaN stays
    Vec lower = broadcast(1.0f);                         // c^(q - 1)
    if (Q == 0) lower = exp(broadcast(q - 1.0f) * log(c));
    for (int i = 1; i < Q; ++i) lower = lower * c;
    const Vec slope = select(less(broadcast(kBeside), u), broadcast(q) * lower, zero());
    return {lower * c, select(less(u, broadcast(1.0f - kBeside)), slope, zero())};
  }
  // Less 1 from 1/2 on, which is exact (Sterbenz).
  Residue residue(Vec u) const {
    const ValueAndSlope v = (*this)(u);
    const Mask below = less(v.value, broadcast(0.5f));
    return {select(below, v.value, v.value - broadcast(1.0f)), v.slope, below};
  }
  Vec value(Vec u) const { return (*this)(u).value; }
};

// What residues (docs/threshold_topk.md) are summed over in float32, so that roundings of long rows do not add up.
constexpr int64_t kSummed = 64 * Vec::lanes;

// The sum of a row's values less `wanted`, and that of its slopes.
template <class Link>
Sums link_excess(const Link& link, const float* z, float shift, int64_t n, float wanted) {
  const Vec s = broadcast(shift);
  double excess = -static_cast<double>(wanted), slopes = 0.0;
  int64_t whole = n;
  for (int64_t begin = 0; begin < n; begin += kSummed) {
    const int64_t end = begin + kSummed < n ? begin + kSummed : n;
    Vec residue = zero(), slope = zero(), residue2 = zero(), slope2 = zero();
    int64_t i = begin;
    for (; i + 2 * Vec::lanes <= end; i += 2 * Vec::lanes) {
      const Residue a = link.residue(load(z + i) + s), b = link.residue(load(z + i + Vec::lanes) + s);
      residue = residue + a.value;
      slope = slope + a.slope;
      residue2 = residue2 + b.value;
      slope2 = slope2 + b.slope;
      whole -= __builtin_popcount(bits(a.below)) + __builtin_popcount(bits(b.below));
    }
    if (i < end) {
      const Residue a = link.residue(load(z + i) + s);
      residue = residue + a.value;
      slope = slope + a.slope;
      whole -= __builtin_popcount(bits(a.below));
    }
    excess += static_cast<double>(sum(residue + residue2));
    slopes += static_cast<double>(sum(slope + slope2));
  }
  return {static_cast<float>(static_cast<double>(whole) + excess), static_cast<float>(slopes)};
}

struct Threshold {
  float shift, rest;  // u = (a - shift) / t - rest
};

// z = (a - by) / t
void scale(const float* a, float by, float inverse_temperature, float* z, int64_t n) {
  const Vec m = broadcast(by), s = broadcast(inverse_temperature);
  for (int64_t i = 0; i < n; i += Vec::lanes) store(z + i, (load(a + i) - m) * s);
}

template <class Link>
Threshold find_threshold(const Link& link, const float* a, float* z, int64_t n, int64_t k, float temperature) {
  if (k <= 0) return {kNoThreshold, 0.0f};
  const int64_t finite = count_at_least(a, -kNoThreshold, n);
  Vec most = broadcast(kMinusInfinity), odd = zero();
  for (int64_t i = 0; i < n; i += Vec::lanes) {
    const Vec v = load(a + i);
    most = max(v, most);
    odd = odd + select(equal(v, broadcast(kMinusInfinity)), zero(), v - v);  // NaN of infinities and NaN
  }
  const float highest = max_lane(most), inverse = 1.0f / temperature, none = sum(odd) + (highest - highest);
  if (!(none == 0.0f)) return {none, 0.0f};  // a row of NaN
  if (k >= finite) return {-kNoThreshold, 0.0f};
  scale(a, highest, inverse, z, n);
  Vec low = zero();
  for (int64_t i = 0; i < n; i += Vec::lanes) {
    const Vec v = load(z + i);
    low = select(less(broadcast(-kNoThreshold), v), min(low, v), low);
  }
  const float wanted = static_cast<float>(k);
  const auto excess = [&](float s) { return link_excess(link, z, s, n, wanted); };
  const float b =
      solve_threshold<typename Link::Bracket>(wanted, static_cast<float>(finite), -max_lane(zero() - low), excess);
  const float shift = highest - b * temperature;
  scale(a, shift, inverse, z, n);
  return {shift, correct_threshold(Link::kCorrections, excess)};
}

template <class T, class Link>
bool forward_row(const ThresholdTopkArgs& args, const Link& link, const TopkRow& row) {
  const TopkRows& t = args.rows;
  const int64_t n = whole_vectors(row.length);
  const Scratch scratch(2 * n * kFloat);
  if (!scratch.ready()) return false;
  float *a = scratch.as<float>(), *z = a + n;
  load_scores<T>(t, row, a);
  const Threshold found = find_threshold(link, a, z, n, count_of(t, row.index), t.temperature);
  args.thresholds[2 * row.index] = found.shift;
  args.thresholds[2 * row.index + 1] = found.rest;
  if (t.hard && found.shift == found.shift) {
    memcpy(z, a, sizeof(float) * static_cast<size_t>(n));
    select_highest(z, a, row.length, n, selected_of(t, row.index));
  } else {
    const Vec shift = broadcast(found.shift), rest = broadcast(found.rest), s = broadcast(1.0f / t.temperature);
    for (int64_t i = 0; i < n; i += Vec::lanes) store(z + i, link.value((load(a + i) - shift) * s - rest));
  }
  store_row(static_cast<T*>(args.out) + row.first, z, row.length);
  return true;
}

template <class T, class Link>
bool backward_row(const ThresholdTopkBackwardArgs& args, const Link& link, const TopkRow& row) {
  const TopkRows& t = args.rows;
  const int64_t n = whole_vectors(row.length);
  const Scratch scratch(2 * n * kFloat);
  if (!scratch.ready()) return false;
  float *v = scratch.as<float>(), *g = v + n;
  load_scores<T>(t, row, v);
  load_row(static_cast<const T*>(args.dout) + row.first, row.length, g);
  const Vec shift = broadcast(args.thresholds[2 * row.index]), rest = broadcast(args.thresholds[2 * row.index + 1]);
  const Vec s = broadcast(1.0f / t.temperature);
  Vec sums = zero(), products = zero();
  for (int64_t i = 0; i < n; i += Vec::lanes) {
    const Vec u = link((load(v + i) - shift) * s - rest).slope;
    store(v + i, u);
    sums = sums + u;
    products = fma(u, load(g + i), products);
  }
  // where one slope outweighs the others, dy - mean cancels there: what rounding took from the mean is measured
  const float total = sum(sums);
  const Vec mean = broadcast(total == 0.0f ? 0.0f : sum(products) / total);
  Vec again = zero();
  for (int64_t i = 0; i < n; i += Vec::lanes) {
    const Vec d = load(g + i) - mean;
    store(g + i, d);
    again = fma(load(v + i), d, again);
  }
  const Vec left = broadcast(total == 0.0f ? 0.0f : sum(again) / total);
  for (int64_t i = 0; i < n; i += Vec::lanes) store(v + i, load(v + i) * s * (load(g + i) - left));
  store_row(static_cast<T*>(args.dscores) + row.first, v, row.length);
  return true;
}

template <class Kernel>
void with_link(TopkLink link, float exponent, const Kernel& kernel) {
  if (link == TopkLink::sigmoid) return kernel(Sigmoid{});
  if (exponent == 1.0f) return kernel(Power<1>{1.0f});
  if (exponent > 2.99999f && exponent < 3.00001f) return kernel(Power<3>{3.0f});  // p = 4/3
  kernel(Power<0>{exponent});
}

}  // namespace

void threshold_topk(const ThresholdTopkArgs& a) {
  with_type(a.rows.dtype, [&](auto t) {
    using T = decltype(t);
    with_link(a.link, a.exponent, [&](const auto& link) {
      for_rows(
          a.rows, kGrainScores, [&](const LaneRows& g) { return forward_lanes<T>(a, link, g); },
          [&](const TopkRow& row) { return forward_row<T>(a, link, row); });
    });
  });
}

void threshold_topk_backward(const ThresholdTopkBackwardArgs& a) {
  with_type(a.rows.dtype, [&](auto t) {
    using T = decltype(t);
    with_link(a.link, a.exponent, [&](const auto& link) {
      for_rows(
          a.rows, kGrainScores, [&](const LaneRows& g) { return backward_lanes<T>(a, link, g); },
          [&](const TopkRow& row) { return backward_row<T>(a, link, row); });
    });
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
