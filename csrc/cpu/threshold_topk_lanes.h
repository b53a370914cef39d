// SPDX-License-Identifier: Apache-2.0
// Short rows of the top-k ops with a threshold, one to a lane: element j of every row is one vector, and the steps of
// threshold_solver.h are taken in all lanes until none moves. A lane that has its threshold keeps it.
#pragma once
#include "../ops/threshold_topk.h"
#include "math.h"
#include "topk_rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct LaneSums {
  Vec excess, slope;
};
// h(u) = value where `below`, in the lower half of a link, and 1 + value in the upper: docs/threshold_topk.md on why
// residues are summed and the ones counted.
struct Residue {
  Vec value, slope;
  Mask below;
};
struct LaneThresholds {
  Vec shift, rest;
};

// As SigmoidBracket and PowerBracket.
struct SigmoidLanes {
  static Vec low(Vec k, Vec n) { return log(k / (n - k)); }
  static Vec high(Vec k, Vec n, Vec lowest) { return low(k, n) - lowest; }
  static Vec step(const LaneSums& s, Vec k, Vec n) {
    const Vec newton = zero() - s.excess / s.slope, value = k + s.excess, x = s.excess * n / (value * (n - k));
    const Vec by_logit = log(broadcast(1.0f) - x) * (value / n * (n - value)) / s.slope;
    const Vec step = select(less(broadcast(kStraight), magnitude(x)), by_logit, newton);
    return select(less(value, n), select(less(zero(), value), step, newton), newton);
  }
};
struct PowerLanes {
  static Vec low(Vec, Vec) { return zero(); }
  static Vec high(Vec, Vec, Vec lowest) { return broadcast(1.0f) - lowest; }
  static Vec step(const LaneSums& s, Vec, Vec) { return zero() - s.excess / s.slope; }
};

template <class Bracket, class Evaluate>
Vec solve_lanes(Vec k, Vec n, Vec lowest, const Evaluate& excess) {
  const Vec half = broadcast(0.5f), close = broadcast(kCloseEnough), there = broadcast(kThere);
  Vec low = Bracket::low(k, n), high = Bracket::high(k, n, lowest), last = high - low, b = fma(half, last, low);
  for (int i = 0; i < 64 && bits(less(close, last)); ++i) {
    const LaneSums s = excess(b);
    const Mask below = less(s.excess, zero() - there), above = less(there, s.excess), moving = less(close, last);
    low = select(below, b, low);
    high = select(above, b, high);
    const Vec middle = fma(half, high - low, low), step = Bracket::step(s, k, n), size = magnitude(step);
    Vec next = b + step;
    const Vec near = next;
    next = select(less(low, next), next, middle);
    next = select(less(next, high), next, middle);
    next = select(less(size, half * last), next, middle);
    next = select(less(close, size), next, near);
    next = select(below, next, select(above, next, b));
    last = select(moving, magnitude(next - b), last);
    b = select(moving, next, b);
  }
  return b;
}

// a: scores of the group, minus infinity where there is none. z is overwritten.
template <class Link>
LaneThresholds find_thresholds(const Link& link, const TopkRows& t, const LaneRows& g, const float* a, float* z) {
  constexpr int L = Vec::lanes;
  const Vec infinity = broadcast(__builtin_inff()), one = broadcast(1.0f);
  float counts[L] = {};
  for (int l = 0; l < g.count; ++l) counts[l] = static_cast<float>(count_of(t, g.rows[l].index));
  const Vec k = load(counts), inverse = broadcast(1.0f / t.temperature), temperature = broadcast(t.temperature);
  Vec highest = zero() - infinity, lowest = infinity, finite = zero(), odd = zero();
  for (int64_t j = 0; j < g.longest; ++j) {
    const Vec x = load(a + j * L);
    const Mask none = equal(x, zero() - infinity);
    highest = max(x, highest);
    lowest = min(select(none, infinity, x), lowest);
    finite = finite + select(none, zero(), one);
    odd = odd + select(none, zero(), x - x);  // NaN of infinities and NaN
  }
  odd = odd + (highest - highest);
  for (int64_t j = 0; j < g.longest; ++j) store(z + j * L, (load(a + j * L) - highest) * inverse);
  const auto excess = [&](Vec shift) {
    LaneSums s{zero(), zero()};
    Vec whole = zero() - k;
    for (int64_t j = 0; j < g.longest; ++j) {
      const Residue r = link.residue(load(z + j * L) + shift);
      s.excess = s.excess + r.value;
      s.slope = s.slope + r.slope;
      whole = whole + select(r.below, zero(), one);
    }
    s.excess = whole + s.excess;
    return s;
  };
  const Vec b = solve_lanes<typename Link::Lanes>(k, finite, (lowest - highest) * inverse, excess);
  const Vec found = fnma(b, temperature, highest);
  for (int64_t j = 0; j < g.longest; ++j) store(z + j * L, (load(a + j * L) - found) * inverse);
  Vec rest = zero();
  for (int round = 0; round < Link::kCorrections; ++round) {
    const LaneSums s = excess(zero() - rest);
    const Vec step = s.excess / s.slope;
    rest = rest + select(less(broadcast(2.0f * kCloseEnough), magnitude(step)), zero(),
                         select(equal(step, step), step, zero()));
  }
  const Mask some = less(k, finite), any = less(zero(), k), sound = equal(odd, odd);
  Vec shift = select(some, found, broadcast(-kNoThreshold));
  shift = select(sound, shift, odd);
  return {select(any, shift, broadcast(kNoThreshold)),
          select(any, select(some, select(sound, rest, zero()), zero()), zero())};
}

template <class T, class Link>
bool forward_lanes(const ThresholdTopkArgs& args, const Link& link, const LaneRows& g) {
  constexpr int L = Vec::lanes;
  const TopkRows& t = args.rows;
  alignas(64) float a[kLaneRow * L], z[kLaneRow * L], shifts[L], rests[L];
  load_scores<T>(t, g, a);
  const LaneThresholds found = find_thresholds(link, t, g, a, z);
  store(shifts, found.shift);
  store(rests, found.rest);
  for (int l = 0; l < g.count; ++l) {
    args.thresholds[2 * g.rows[l].index] = shifts[l];
    args.thresholds[2 * g.rows[l].index + 1] = rests[l];
  }
  if (t.hard) {
    // keys in the order of the scores, from zero on: NaN where the row is
    Vec lowest = broadcast(__builtin_inff());
    const Vec none = broadcast(kMinusInfinity), odd = found.shift - found.shift;
    for (int64_t j = 0; j < g.longest; ++j) {
      const Vec x = load(a + j * L);
      lowest = min(select(equal(x, none), lowest, x), lowest);
    }
    for (int64_t j = 0; j < g.longest; ++j) {
      const Vec x = load(a + j * L);
      store(z + j * L, select(equal(x, none), zero(), x - lowest) + odd);
    }
    int64_t selected[L] = {};
    for (int l = 0; l < g.count; ++l) selected[l] = selected_of(t, g.rows[l].index);
    select_highest(z, a, g, selected);
  } else {
    const Vec s = broadcast(1.0f / t.temperature);
    for (int64_t j = 0; j < g.longest; ++j)
      store(z + j * L, link.value((load(a + j * L) - found.shift) * s - found.rest));
  }
  store_rows(static_cast<T*>(args.out), z, g);
  return true;
}

template <class T, class Link>
bool backward_lanes(const ThresholdTopkBackwardArgs& args, const Link& link, const LaneRows& g) {
  constexpr int L = Vec::lanes;
  const TopkRows& t = args.rows;
  alignas(64) float v[kLaneRow * L], dy[kLaneRow * L], shifts[L] = {}, rests[L] = {};
  load_scores<T>(t, g, v);
  load_rows(static_cast<const T*>(args.dout), g, dy);
  for (int l = 0; l < g.count; ++l) {
    shifts[l] = args.thresholds[2 * g.rows[l].index];
    rests[l] = args.thresholds[2 * g.rows[l].index + 1];
  }
  const Vec shift = load(shifts), rest = load(rests), s = broadcast(1.0f / t.temperature);
  Vec total = zero(), products = zero();
  for (int64_t j = 0; j < g.longest; ++j) {
    const Vec slope = link((load(v + j * L) - shift) * s - rest).slope;
    store(v + j * L, slope);
    total = total + slope;
    products = fma(slope, load(dy + j * L), products);
  }
  const Mask none = equal(total, zero());
  const Vec mean = select(none, zero(), products / total);
  Vec again = zero();
  for (int64_t j = 0; j < g.longest; ++j) {
    const Vec d = load(dy + j * L) - mean;
    store(dy + j * L, d);
    again = fma(load(v + j * L), d, again);
  }
  const Vec left = select(none, zero(), again / total);
  for (int64_t j = 0; j < g.longest; ++j) store(v + j * L, load(v + j * L) * s * (load(dy + j * L) - left));
  store_rows(static_cast<T*>(args.dscores), v, g);
  return true;
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
