// SPDX-License-Identifier: Apache-2.0
// Short rows of relaxed_topk, one to a lane, as weights (see relaxed_topk.cpp). Element j of every row is one vector.
// Lanes whose weights lose their range, and all lanes at other temperatures than 1, go on as single rows.
#pragma once
#include "../ops/relaxed_topk.h"
#include "math.h"
#include "topk_rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// Weights begin with the largest at 1. While their sum is at least this, those that have underflowed are together
// less than 2^-40 of it.
constexpr float kLeast = 0x1p-70f;

// A step in every lane: 1 / sum, 1 - p of the leader (the first of the largest weights), and which one that is.
struct LaneStep {
  Vec inverse, rest, leader, total;
};

inline LaneStep lane_step(const float* w, int64_t longest) {
  constexpr int L = Vec::lanes;
  Vec top = load(w), total = top, rest = zero(), leader = zero();
  for (int64_t j = 1; j < longest; ++j) {
    const Vec v = load(w + j * L);
    leader = select(less(top, v), broadcast(static_cast<float>(j)), leader);
    rest = rest + min(top, v);
    top = max(top, v);
    total = total + v;
  }
  total = select(equal(total, total), rest + top, total);  // of a row with a NaN, NaN
  const Vec inverse = broadcast(1.0f) / total;
  return {inverse, rest * inverse, leader, total};
}

inline void exponentials(const float* a, float* w, int64_t longest) {
  constexpr int L = Vec::lanes;
  Vec top = load(a);
  for (int64_t j = 1; j < longest; ++j) top = max(top, load(a + j * L));
  for (int64_t j = 0; j < longest; ++j) store(w + j * L, exp(load(a + j * L) - top));
}

// How many steps each lane takes, and the most.
struct LaneSteps {
  float each[Vec::lanes] = {};
  int64_t most = 0;
  LaneSteps(const TopkRows& t, const LaneRows& g) {
    for (int l = 0; l < g.count; ++l) {
      const int64_t k = count_of(t, g.rows[l].index);
      each[l] = static_cast<float>(k);
      if (k > most) most = k;
    }
  }
};

// Rows whose lane is marked, one by one.
template <class Row>
bool single_rows(const LaneRows& g, unsigned marked, const Row& row) {
  bool good = true;
  for (int l = 0; l < g.count; ++l)
    if (marked >> l & 1) good = row(g.rows[l]) && good;
  return good;
}

// One score alone has p = 1 in every step, and no gradient; NaN where it is not finite.
template <class T>
bool single_scores(const TopkRows& t, const LaneRows& g, bool forward, T* out) {
  float x[Vec::lanes];
  load_scores<T>(t, g, x);
  for (int l = 0; l < g.count; ++l) {
    const int64_t k = count_of(t, g.rows[l].index);
    float y = forward ? static_cast<float>(k) : 0.0f;
    if (forward && t.hard) y = selected_of(t, g.rows[l].index) > 0 ? 1.0f : 0.0f;
    out[g.rows[l].first] = narrow<T>(k > 0 ? y + (x[l] - x[l]) : y);
  }
  return true;
}

template <class T, class Row>
bool forward_lanes(const RelaxedTopkArgs& args, const LaneRows& g, const Row& row) {
  constexpr int L = Vec::lanes;
  const TopkRows& t = args.rows;
  if (g.longest == 1) return single_scores(t, g, true, static_cast<T*>(args.out));
  if (t.temperature != 1.0f) return single_rows(g, ~0u, row);
  alignas(64) float a[kLaneRow * L], w[kLaneRow * L], khot[kLaneRow * L];
  const LaneSteps steps(t, g);
  const Vec each = load(steps.each);
  load_scores<T>(t, g, a);
  exponentials(a, w, g.longest);
  for (int64_t j = 0; j < g.longest; ++j) store(khot + j * L, zero());
  unsigned lost = 0;
  for (int64_t i = 0; i < steps.most; ++i) {
    const LaneStep s = lane_step(w, g.longest);
    const Mask live = less(broadcast(static_cast<float>(i)), each);
    lost |= bits(less(select(live, s.total, broadcast(1.0f)), broadcast(kLeast)));
    for (int64_t j = 0; j < g.longest; ++j) {
      const Vec v = load(w + j * L), p = v * s.inverse;
      const Mask leads = equal(s.leader, broadcast(static_cast<float>(j)));
      store(khot + j * L, load(khot + j * L) + select(live, p, zero()));
      store(w + j * L, select(leads, v * s.rest, fnma(v, p, v)));
    }
  }
  if (t.hard) {
    int64_t selected[L];
    for (int l = 0; l < g.count; ++l) selected[l] = selected_of(t, g.rows[l].index);
    select_highest(khot, a, g, selected);
  }
  store_rows(static_cast<T*>(args.out), khot, g);
  return single_rows(g, lost, row);
}

template <class T, class Row>
bool backward_lanes(const RelaxedTopkBackwardArgs& args, const LaneRows& g, const Row& row) {
  constexpr int L = Vec::lanes;
  const TopkRows& t = args.rows;
  if (g.longest == 1) return single_scores(t, g, false, static_cast<T*>(args.dscores));
  if (t.temperature != 1.0f) return single_rows(g, ~0u, row);
  const LaneSteps steps(t, g);
  const int64_t plane = g.longest * L;
  const Scratch scratch((steps.most + 1) * plane * kFloat);  // weights of every step
  if (!scratch.ready()) return false;
  float* weights = scratch.as<float>();
  alignas(64) float gradient[kLaneRow * L], v[kLaneRow * L];
  LaneStep step[kMostRelaxedSteps];
  const Vec each = load(steps.each), one = broadcast(1.0f);
  load_rows(static_cast<const T*>(args.dout), g, gradient);
  load_scores<T>(t, g, v);
  exponentials(v, weights, g.longest);
  unsigned lost = 0;
  for (int64_t i = 0; i < steps.most; ++i) {
    const float* w = weights + i * plane;
    const LaneStep s = step[i] = lane_step(w, g.longest);
    const Mask live = less(broadcast(static_cast<float>(i)), each);
    lost |= bits(less(select(live, s.total, one), broadcast(kLeast)));
    if (i + 1 == steps.most) break;
    for (int64_t j = 0; j < g.longest; ++j) {
      const Vec u = load(w + j * L), p = u * s.inverse;
      const Mask leads = equal(s.leader, broadcast(static_cast<float>(j)));
      store(weights + (i + 1) * plane + j * L, select(leads, u * s.rest, fnma(u, p, u)));
    }
  }
  for (int64_t j = 0; j < g.longest; ++j) store(v + j * L, zero());
  for (int64_t i = steps.most - 1; i >= 0; --i) {
    const float* w = weights + i * plane;
    const LaneStep& s = step[i];
    const Mask live = less(broadcast(static_cast<float>(i)), each);
    Vec others = zero(), leading = zero();  // sums of p q
    for (int64_t j = 0; j < g.longest; ++j) {
      const Vec u = load(w + j * L), pq = u * s.inverse * fnma(load(v + j * L), u, load(gradient + j * L));
      const Mask leads = equal(s.leader, broadcast(static_cast<float>(j)));
      leading = select(leads, pq, leading);
      others = others + select(leads, zero(), pq);
    }
    const Vec c = others + leading, twice = s.inverse + s.inverse;
    for (int64_t j = 0; j < g.longest; ++j) {
      const Vec u = load(v + j * L), d = load(gradient + j * L);
      const Mask leads = equal(s.leader, broadcast(static_cast<float>(j)));
      const Vec other = fma(d - c, s.inverse, fnma(load(w + j * L) * twice, u, u));
      const Vec leader = fma(u * s.rest, s.rest, (d * s.rest - others) * s.inverse);
      store(v + j * L, select(live, select(leads, leader, other), u));
    }
  }
  for (int64_t j = 0; j < g.longest; ++j) store(v + j * L, load(v + j * L) * load(weights + j * L));
  store_rows(static_cast<T*>(args.dscores), v, g);
  return single_rows(g, lost, row);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
