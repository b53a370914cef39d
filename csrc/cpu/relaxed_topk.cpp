// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/relaxed_topk.h. At temperature 1 a row lives as weights w = e^a: a step is w (1 - p) = w - w^2 / sum w,
// without a logarithm or an exponential. Where the sum of the weights sinks below kLeast (scores far apart, and more
// steps than scores) or the temperature is another, a row lives as logarithms.
#include "../ops/relaxed_topk.h"

#include "relaxed_topk_lanes.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int64_t kGrainWork = 8192;  // element steps

// One step of a row: 1 / sum; and the element whose p exceeds 1/2, if there is one: its 1 - p and its value (weight or
// p), which lies here and is 0 in the row, so that loops over the others need not know it.
struct Step {
  float inverse, rest, value;
  int64_t top;  // or -1
};

// The arrays of one row: n floats each, n a whole number of vectors.
struct Row {
  int64_t n, steps;
  float *a, *w, *khot;
};

// ---- forward

// a -= max a, so that the numbers that count are small and keep their last digits; w = e^(a / t); the sum of w.
float exponentials(float* a, float inverse_temperature, float* w, int64_t n) {
  const Vec m = broadcast(max_of(a, n)), s = broadcast(inverse_temperature);
  return sum_lanes(n, [&](int64_t i, int) {
    const Vec v = load(a + i) - m, e = exp(v * s);
    store(a + i, v);
    store(w + i, e);
    return e;
  });
}

// Takes the element that is more than half of the sum out of w, and makes sum and rest exact.
Step begin_step(float* w, int64_t n, float& total, float peak) {
  Step s{0.0f, 0.0f, 0.0f, -1};
  if (peak > 0.5f * total) {
    s.top = index_of(w, peak, n);
    s.value = peak;
    w[s.top] = 0.0f;
    const float others = sum_of(w, n);
    total = others + peak;
    s.rest = others / total;
  }
  s.inverse = 1.0f / total;
  return s;
}

// From the weights of one step to those of the next (the same array or another): their sum and the largest.
template <bool kKhot>
void next_weights(const float* w, const Step& s, float* next, float* khot, int64_t n, float& total, float& peak) {
  const Vec inverse = broadcast(s.inverse);
  Vec sums = zero(), largest = zero();
  for (int64_t i = 0; i < n; i += Vec::lanes) {
    const Vec v = load(w + i), p = v * inverse;
    if (kKhot) store(khot + i, load(khot + i) + p);
    const Vec u = fnma(v, p, v);
    store(next + i, u);
    sums = sums + u;
    largest = max(largest, u);
  }
  total = sum(sums);
  peak = max_lane(largest);
  if (s.top < 0) return;
  if (kKhot) khot[s.top] += s.value * s.inverse;
  next[s.top] = s.value * s.rest;
  total += next[s.top];
  if (next[s.top] > peak) peak = next[s.top];
}

void add_last(const float* w, const Step& s, float* khot, int64_t n) {
  const Vec inverse = broadcast(s.inverse);
  for (int64_t i = 0; i < n; i += Vec::lanes) store(khot + i, fma(load(w + i), inverse, load(khot + i)));
  if (s.top >= 0) khot[s.top] += s.value * s.inverse;
}

// False where the weights lost their range.
bool weights_forward(const Row& r) {
  float total = exponentials(r.a, 1.0f, r.w, r.n), peak = 1.0f;
  for (int64_t i = 0;; ++i) {
    if (total < kLeast) return false;
    const Step s = begin_step(r.w, r.n, total, peak);
    if (i + 1 == r.steps) return add_last(r.w, s, r.khot, r.n), true;
    next_weights<true>(r.w, s, r.w, r.khot, r.n, total, peak);
  }
}

// One step in logarithms: p of the others into `p` and khot, a to the next step.
Step next_logarithms(float* a, float* p, float* khot, int64_t n, float inverse_temperature) {
  float total = exponentials(a, inverse_temperature, p, n);
  Step s = begin_step(p, n, total, 1.0f);
  const Vec inverse = broadcast(s.inverse), one = broadcast(1.0f);
  for (int64_t i = 0; i < n; i += Vec::lanes) {
    const Vec v = load(p + i) * inverse;
    store(p + i, v);
    if (khot) store(khot + i, load(khot + i) + v);
    store(a + i, load(a + i) + log(one - v));
  }
  if (s.top >= 0) {
    s.value = s.inverse;
    if (khot) khot[s.top] += s.value;
    float lane[Vec::lanes];
    store(lane, log(broadcast(s.rest > kRelaxedTiny ? s.rest : kRelaxedTiny)));
    a[s.top] += lane[0];
  }
  return s;
}

void logarithms_forward(const Row& r, float inverse_temperature) {
  for (int64_t i = 0; i < r.steps; ++i) next_logarithms(r.a, r.w, r.khot, r.n, inverse_temperature);
}

void clear(float* x, int64_t n) { memset(x, 0, sizeof(float) * static_cast<size_t>(n)); }

template <class T>
bool forward_row(const RelaxedTopkArgs& args, const TopkRow& row) {
  const TopkRows& t = args.rows;
  const int64_t n = whole_vectors(row.length), steps = count_of(t, row.index);
  const Scratch scratch(3 * n * kFloat);
  if (!scratch.ready()) return false;
  float* room = scratch.as<float>();
  const Row r{n, steps, room, room + n, room + 2 * n};
  load_scores<T>(t, row, r.a);
  clear(r.khot, n);
  if (steps > 0 && !(t.temperature == 1.0f && weights_forward(r))) {
    clear(r.khot, n);
    logarithms_forward(r, 1.0f / t.temperature);
  }
  if (t.hard) {
    if (steps > 0) load_scores<T>(t, row, r.a);
    for (int64_t i = row.length; i < n; ++i) r.khot[i] = kMinusInfinity;
    select_highest(r.khot, r.a, row.length, n, selected_of(t, row.index));
  }
  store_row(static_cast<T*>(args.out) + row.first, r.khot, row.length);
  return true;
}

// ---- backward: the steps again, each kept, and then in reverse

struct History {
  float* rows;  // [steps][n]: weights, or p; 0 at the top element
  Step step[kMostRelaxedSteps];
  float* operator[](int64_t i) const { return rows + i * n; }
  int64_t n;
};

bool weights_history(const Row& r, History& h) {
  float total = exponentials(r.a, 1.0f, h[0], r.n), peak = 1.0f;
  for (int64_t i = 0;; ++i) {
    if (total < kLeast) return false;
    h.step[i] = begin_step(h[i], r.n, total, peak);
    if (i + 1 == r.steps) return true;
    next_weights<false>(h[i], h.step[i], h[i + 1], nullptr, r.n, total, peak);
  }
}

// With v = d / w (the gradient by the weights) and c = <q, p>, q = G - v w:   v_i = v_{i+1} (1 - 2p) + (G - c) / sum.
// For the top element q - c = q (1 - p) - (c without it), so v_i = v_{i+1} rest^2 + (G rest - c of the others) / sum.
void weights_backward(const Row& r, const History& h, const float* g, float* v, float* d) {
  for (int64_t i = r.steps - 1; i >= 0; --i) {
    const float* w = h[i];
    const Step& s = h.step[i];
    const float others = s.inverse * sum_lanes(r.n, [&](int64_t j, int) {
                           return load(w + j) * fnma(load(v + j), load(w + j), load(g + j));
                         });
    float c = others, top = 0.0f;
    if (s.top >= 0) {
      c += s.value * s.inverse * (g[s.top] - v[s.top] * s.value);
      top = v[s.top] * s.rest * s.rest + (g[s.top] * s.rest - others) * s.inverse;
    }
    const Vec inverse = broadcast(s.inverse), twice = broadcast(2.0f * s.inverse), shift = broadcast(c);
    for (int64_t j = 0; j < r.n; j += Vec::lanes) {
      const Vec u = load(v + j);
      store(v + j, fma(load(g + j) - shift, inverse, fnma(load(w + j) * twice, u, u)));
    }
    if (s.top >= 0) v[s.top] = top;
  }
  for (int64_t j = 0; j < r.n; j += Vec::lanes) store(d + j, load(v + j) * load(h[0] + j));
  if (const Step& s = h.step[0]; s.top >= 0) d[s.top] = v[s.top] * s.value;
}

// For the top element 1 - p / t is (t - 1 + rest) / t, and q (1 - p) is G rest - d, or G rest where 1 - p was clamped.
void logarithms_backward(const Row& r, const History& h, const float* g, float* d, float temperature) {
  const float inverse_temperature = 1.0f / temperature;
  const Vec one = broadcast(1.0f);
  for (int64_t i = r.steps - 1; i >= 0; --i) {
    const float* p = h[i];
    const Step& s = h.step[i];
    const auto q = [&](int64_t j) { return load(g + j) - load(d + j) / (one - load(p + j)); };
    const float others = sum_lanes(r.n, [&](int64_t j, int) { return load(p + j) * q(j); });
    float c = others, top = 0.0f;
    if (s.top >= 0) {
      const bool clamped = !(s.rest > kRelaxedTiny);
      const float gain = (g[s.top] * s.rest - others) * s.value * inverse_temperature;
      c += s.value * (clamped ? g[s.top] : g[s.top] - d[s.top] / s.rest);
      top = gain + d[s.top] * (clamped ? 1.0f : (temperature - 1.0f + s.rest) * inverse_temperature);
    }
    const Vec scale = broadcast(inverse_temperature), shift = broadcast(c);
    for (int64_t j = 0; j < r.n; j += Vec::lanes) store(d + j, fma(load(p + j) * scale, q(j) - shift, load(d + j)));
    if (s.top >= 0) d[s.top] = top;
  }
}

template <class T>
bool backward_row(const RelaxedTopkBackwardArgs& args, const TopkRow& row) {
  const TopkRows& t = args.rows;
  const int64_t n = whole_vectors(row.length), steps = count_of(t, row.index);
  const Scratch scratch((steps + 3) * n * kFloat);
  if (!scratch.ready()) return false;
  float* room = scratch.as<float>();
  const Row r{n, steps, room, nullptr, nullptr};
  float *g = room + n, *d = room + 2 * n;
  History h;
  h.rows = room + 3 * n;
  h.n = n;
  load_scores<T>(t, row, r.a);
  load_row(static_cast<const T*>(args.dout) + row.first, row.length, g);
  clear(d, n);
  if (steps > 0) {
    if (t.temperature == 1.0f && weights_history(r, h)) {
      weights_backward(r, h, g, d, r.a);
      d = r.a;
    } else {
      for (int64_t i = 0; i < steps; ++i) h.step[i] = next_logarithms(r.a, h[i], nullptr, n, 1.0f / t.temperature);
      logarithms_backward(r, h, g, d, t.temperature);
    }
  }
  store_row(static_cast<T*>(args.dscores) + row.first, d, row.length);
  return true;
}

int64_t grain(const TopkRows& t) { return kGrainWork / (t.k + 1) + 1; }

}  // namespace

void relaxed_topk(const RelaxedTopkArgs& a) {
  with_type(a.rows.dtype, [&](auto t) {
    using T = decltype(t);
    const auto row = [&](const TopkRow& r) { return forward_row<T>(a, r); };
    for_rows(a.rows, grain(a.rows), [&](const LaneRows& g) { return forward_lanes<T>(a, g, row); }, row);
  });
}

void relaxed_topk_backward(const RelaxedTopkBackwardArgs& a) {
  with_type(a.rows.dtype, [&](auto t) {
    using T = decltype(t);
    const auto row = [&](const TopkRow& r) { return backward_row<T>(a, r); };
    for_rows(a.rows, grain(a.rows), [&](const LaneRows& g) { return backward_lanes<T>(a, g, row); }, row);
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
