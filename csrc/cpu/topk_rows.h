// SPDX-License-Identifier: Apache-2.0
// Rows of the top-k ops on the CPU: one row at a time in float32 scratch whose length is a whole number of vectors, so
// that no loop over a row has a tail. Splitting over threads is by elements, since rows may differ in length.
#pragma once
#include "../ops/topk_rows.h"
#include "scratch.h"
#include "storage.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

constexpr int64_t kFloat = sizeof(float);
constexpr float kMinusInfinity = -__builtin_inff();

inline int64_t whole_vectors(int64_t n) { return (n + Vec::lanes - 1) / Vec::lanes * Vec::lanes; }

struct TopkRow {
  int64_t index, first, length;  // first: position in the outputs
};

inline TopkRow row_of(const TopkRows& t, int64_t r) {
  if (!t.offsets) return {r, r * t.length, t.length};
  return {r, t.offsets[r], t.offsets[r + 1] - t.offsets[r]};
}
inline int64_t count_of(const TopkRows& t, int64_t r) { return t.counts ? t.counts[r] : t.k; }
inline int64_t selected_of(const TopkRows& t, int64_t r) {
  return t.slots ? t.slots[r] : t.selected >= 0 ? t.selected : count_of(t, r);
}

// The first row that begins at or after output position `n`.
inline int64_t first_row_at(const TopkRows& t, int64_t n) {
  if (!t.offsets) return t.length ? (n + t.length - 1) / t.length : 0;
  int64_t low = 0, high = t.rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (t.offsets[middle] < n)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Rows of at most kLaneRow scores go one to a lane, with others of about their length: a step of a row of three costs
// nothing but latency where it has vectors to itself. Each result is its lane's alone, whatever rows lie beside it.
constexpr int64_t kLaneRow = 32;
struct LaneRows {
  TopkRow rows[Vec::lanes];
  int count = 0;
  int64_t longest = 0;
};

// Calls lanes(rows) for rows up to kLaneRow and row(row) for longer ones; false from either means
// that memory ran out. Empty rows are nobody's.
template <class Lanes, class Row>
void for_rows(const TopkRows& t, int64_t grain, const Lanes& lanes, const Row& row) {
  bool failed = false;
  parallel_for(t.size, grain, [&](int64_t begin, int64_t end) {
    LaneRows waiting[6];  // of 1, 2, 3 to 4, 5 to 8, ... scores
    bool good = true;
    const int64_t last = first_row_at(t, end);
    for (int64_t r = first_row_at(t, begin); r < last; ++r) {
      const TopkRow one = row_of(t, r);
      if (one.length == 0) continue;
      if (one.length > kLaneRow) {
        good = row(one) && good;
        continue;
      }
      LaneRows& group = waiting[one.length == 1 ? 0 : 32 - __builtin_clz(static_cast<unsigned>(one.length - 1))];
      group.rows[group.count++] = one;
      if (one.length > group.longest) group.longest = one.length;
      if (group.count < Vec::lanes) continue;
      good = lanes(group) && good;
      group.count = 0;
      group.longest = 0;
    }
    for (LaneRows& group : waiting)
      if (group.count) good = lanes(group) && good;
    if (!good) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

// Element j of the row in lane l at a[j * lanes + l], minus infinity behind short rows and in lanes without one.
template <class T>
void load_scores(const TopkRows& t, const LaneRows& g, float* a) {
  constexpr int L = Vec::lanes;
  for (int64_t j = 0; j < g.longest; ++j) store(a + j * L, broadcast(kMinusInfinity));
  for (int l = 0; l < g.count; ++l) {
    const TopkRow& row = g.rows[l];
    const T* s = static_cast<const T*>(t.scores) + (t.offsets ? row.first : row.index * t.row_stride);
    const float* noise = t.noise ? t.noise + row.first : nullptr;
    for (int64_t j = 0; j < row.length; ++j) a[j * L + l] = widen(s[j]) + (noise ? noise[j] : 0.0f);
  }
}
// Zeros behind short rows.
template <class T>
void load_rows(const T* x, const LaneRows& g, float* out) {
  constexpr int L = Vec::lanes;
  for (int64_t j = 0; j < g.longest; ++j) store(out + j * L, zero());
  for (int l = 0; l < g.count; ++l)
    for (int64_t j = 0; j < g.rows[l].length; ++j) out[j * L + l] = widen(x[g.rows[l].first + j]);
}
template <class T>
void store_rows(T* out, const float* x, const LaneRows& g) {
  for (int l = 0; l < g.count; ++l)
    for (int64_t j = 0; j < g.rows[l].length; ++j) out[g.rows[l].first + j] = narrow<T>(x[j * Vec::lanes + l]);
}

// a = scores + noise, minus infinity up to a whole vector.
template <class T>
void load_scores(const TopkRows& t, const TopkRow& row, float* a) {
  const T* s = static_cast<const T*>(t.scores) + (t.offsets ? row.first : row.index * t.row_stride);
  for (int64_t i = 0; i < row.length; i += Vec::lanes) {
    const int64_t left = row.length - i;
    const int k = left < Vec::lanes ? static_cast<int>(left) : Vec::lanes;
    Vec v = load(s + i, k);
    if (t.noise) v = v + load(t.noise + row.first + i, k);
    store(a + i, v);
    for (int j = k; j < Vec::lanes; ++j) a[i + j] = kMinusInfinity;
  }
}
// Zeros up to a whole vector.
template <class T>
void load_row(const T* x, int64_t n, float* out) {
  for_lanes(
      n, [&](int64_t i) { store(out + i, load(x + i)); }, [&](int64_t i, int k) { store(out + i, load(x + i, k)); });
}
template <class T>
void store_row(T* out, const float* x, int64_t n) {
  for_lanes(
      n, [&](int64_t i) { store(out + i, load(x + i)); }, [&](int64_t i, int k) { store(out + i, load(x + i), k); });
}

// n counts whole vectors from here on.
inline float max_of(const float* x, int64_t n) {
  Vec m = load(x);
  for (int64_t i = Vec::lanes; i < n; i += Vec::lanes) m = max(m, load(x + i));
  return max_lane(m);
}
inline float sum_of(const float* x, int64_t n) {
  return sum_lanes(n, [&](int64_t i, int) { return load(x + i); });
}
inline int64_t index_of(const float* x, float value, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::lanes)
    if (const unsigned m = bits(equal(load(x + i), broadcast(value)))) return i + __builtin_ctz(m);
  return -1;
}
inline int64_t count_at_least(const float* x, float value, int64_t n) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += Vec::lanes) count += __builtin_popcount(bits(less(load(x + i), broadcast(value))));
  return n - count;
}

// Bits that order like the numbers, and back.
inline uint32_t ordered_bits(float x) {
  const uint32_t u = float_to_bits(x + 0.0f);  // one zero
  return u >> 31 ? ~u : u | 0x80000000u;
}
inline float from_ordered_bits(uint32_t u) { return bits_to_float(u >> 31 ? u & 0x7fffffffu : ~u); }

// key = 1 at the `selected` highest keys, ties to the higher score and then to the first, 0 elsewhere. Keys that are
// NaN, which they are for a whole row, stay. Pads must be minus infinity.
inline void select_highest(float* key, const float* scores, int64_t length, int64_t n, int64_t selected) {
  if (key[0] != key[0]) return;
  if (selected >= length || selected <= 0) {
    for (int64_t i = 0; i < length; ++i) key[i] = selected > 0 ? 1.0f : 0.0f;
    return;
  }
  // the largest threshold that enough keys reach, by bisection: reached(low) >= selected > reached(high)
  uint32_t low = ordered_bits(kMinusInfinity), high = ordered_bits(max_of(key, n)) + 1;
  int64_t reached = n;
  while (high - low > 1 && reached != selected) {
    const uint32_t middle = low + (high - low) / 2;
    const int64_t count = count_at_least(key, from_ordered_bits(middle), n);
    if (count >= selected)
      low = middle, reached = count;
    else
      high = middle;
  }
  const float threshold = from_ordered_bits(low);
  if (reached == selected) {
    for (int64_t i = 0; i < n; i += Vec::lanes)
      store(key + i, select(less(load(key + i), broadcast(threshold)), zero(), broadcast(1.0f)));
    return;
  }
  // more lie at the threshold than are wanted: of those the highest scores, made infinite until all are found
  int64_t missing = selected;
  for (int64_t i = 0; i < length; ++i) missing -= key[i] > threshold;
  for (; missing > 0; --missing) {
    int64_t best = -1;
    for (int64_t i = 0; i < length; ++i)
      if (key[i] == threshold && (best < 0 || scores[i] > scores[best])) best = i;
    key[best] = __builtin_inff();
  }
  for (int64_t i = 0; i < length; ++i) key[i] = key[i] > threshold ? 1.0f : 0.0f;
}

// The same in lanes; `soft` has 0 behind short rows. selected: of each lane. One round finds the next highest of all
// lanes: taken ones are marked -1.
inline void select_highest(float* soft, const float* scores, const LaneRows& g, const int64_t* selected) {
  constexpr int L = Vec::lanes;
  float wanted[L] = {}, length[L] = {};
  int64_t rounds = 0;
  for (int l = 0; l < g.count; ++l) {
    const int64_t n = selected[l] < g.rows[l].length ? selected[l] : g.rows[l].length;
    wanted[l] = static_cast<float>(n);
    length[l] = static_cast<float>(g.rows[l].length);
    if (n > rounds) rounds = n;
  }
  const Vec none = broadcast(-1.0f), many = load(wanted), ends = load(length);
  for (int64_t round = 0; round < rounds; ++round) {
    Vec best = none, best_score = none, at = none;
    for (int64_t j = 0; j < g.longest; ++j) {
      const Vec x = load(soft + j * L), score = load(scores + j * L), index = broadcast(static_cast<float>(j));
      const Vec higher = select(less(best, x), broadcast(1.0f), zero());
      const Vec equally = select(equal(best, x), select(less(best_score, score), broadcast(1.0f), zero()), zero());
      const Mask better = less(zero(), select(less(index, ends), higher + equally, zero()));
      best = select(better, x, best);
      best_score = select(better, score, best_score);
      at = select(better, index, at);
    }
    at = select(less(broadcast(static_cast<float>(round)), many), at, none);
    for (int64_t j = 0; j < g.longest; ++j) {
      const Vec x = load(soft + j * L);
      store(soft + j * L, select(equal(at, broadcast(static_cast<float>(j))), none, x));
    }
  }
  for (int64_t j = 0; j < g.longest; ++j) {
    const Vec x = load(soft + j * L);
    store(soft + j * L, select(equal(x, none), broadcast(1.0f), x * zero()));  // NaN stays
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
