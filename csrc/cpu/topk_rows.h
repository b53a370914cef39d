// SPDX-License-Identifier: Apache-2.0
// Rows of the top-k ops on the CPU: one row at a time in float32 scratch whose length is a whole number of vectors, so
// that no loop over a row has a tail. Splitting over threads is by elements, since rows may differ in length.
#pragma once
#include "../ops/topk_rows.h"
#include "parallel.h"
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

constexpr float kMinusInfinity = -__builtin_inff();

inline int64_t whole_vectors(int64_t n) { return (n + Vec::lanes - 1) / Vec::lanes * Vec::lanes; }

// Floats for one thread, grown as rows ask for them.
class RowScratch {
 public:
  RowScratch() = default;
  ~RowScratch() { __builtin_free(data_); }
  RowScratch(const RowScratch&) = delete;
  RowScratch& operator=(const RowScratch&) = delete;
  // Null where memory ran out.
  float* floats(int64_t n) {
    if (n <= size_) return aligned();
    __builtin_free(data_);
    data_ = __builtin_malloc(static_cast<size_t>(n) * sizeof(float) + 64);
    size_ = data_ ? n : 0;
    return data_ ? aligned() : nullptr;
  }

 private:
  float* aligned() const { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(data_) + 63) / 64 * 64); }
  void* data_ = nullptr;
  int64_t size_ = 0;
};

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

// Calls body(row, scratch) for every row that is not empty; false from it means that memory ran out.
template <class Body>
void for_rows(const TopkRows& t, int64_t grain, const Body& body) {
  bool failed = false;
  parallel_for(t.size, grain, [&](int64_t begin, int64_t end) {
    RowScratch scratch;
    const int64_t last = first_row_at(t, end);
    for (int64_t r = first_row_at(t, begin); r < last; ++r) {
      const TopkRow row = row_of(t, r);
      if (row.length > 0 && !body(row, scratch)) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    }
  });
  if (failed) out_of_memory();
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

// 1 at the `selected` highest of soft >= 0, ties to the higher score and then to the first; 0 elsewhere; NaN where soft
// is NaN, which it is for a whole row. `soft` is overwritten; its pads must be below 0.
inline void select_highest(float* soft, const float* scores, int64_t length, int64_t n, int64_t selected) {
  if (soft[0] != soft[0]) return;
  if (selected >= length || selected <= 0) {
    for (int64_t i = 0; i < length; ++i) soft[i] = selected > 0 ? 1.0f : 0.0f;
    return;
  }
  // the largest threshold that enough elements reach, by bisection over the bits, which order like the numbers
  uint32_t low = 0, high = float_to_bits(max_of(soft, n)) + 1;  // count(low) >= selected > count(high)
  int64_t reached = length;
  while (high - low > 1 && reached != selected) {
    const uint32_t middle = low + (high - low) / 2;
    const int64_t count = count_at_least(soft, bits_to_float(middle), n);
    if (count >= selected)
      low = middle, reached = count;
    else
      high = middle;
  }
  const float threshold = bits_to_float(low);
  if (reached == selected) {
    for (int64_t i = 0; i < n; i += Vec::lanes)
      store(soft + i, select(less(load(soft + i), broadcast(threshold)), zero(), broadcast(1.0f)));
    return;
  }
  // more lie at the threshold than are wanted: of those the highest scores, marked 2 until all are found
  int64_t missing = selected;
  for (int64_t i = 0; i < length; ++i) missing -= soft[i] > threshold;
  for (; missing > 0; --missing) {
    int64_t best = -1;
    for (int64_t i = 0; i < length; ++i)
      if (soft[i] == threshold && (best < 0 || scores[i] > scores[best])) best = i;
    soft[best] = __builtin_inff();
  }
  for (int64_t i = 0; i < length; ++i) soft[i] = soft[i] > threshold ? 1.0f : 0.0f;
}

template <class Kernel>
void with_dtype(DType dtype, const Kernel& kernel) {
  switch (dtype) {
    case DType::bfloat16: return kernel(bfloat16{});
    case DType::float16: return kernel(float16{});
    default: return kernel(float{});
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
