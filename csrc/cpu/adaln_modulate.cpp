// SPDX-License-Identifier: Apache-2.0
#include "../ops/adaln_modulate.h"

#include "normalise.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Results above 5 MB that still go into the caches ask for their next row, to be written, and for the input two rows
// ahead: the third cache is shared, and what others push out of it is waited for. 1025 rows of 1536 floats, one thread,
// median of 120 calls: 501 to 530 us without, 362 to 402 with (the fastest call 242 to 341 and 281 to 324); 2056 of
// 1024 912 to 1022 and 554 to 595 (545 to 862 and 448 to 473). Of 4 MB the fastest call lost 8 %, of 1 MB half.
enum class Stores { cached, asked_ahead, past_cache };
constexpr int64_t kAskAbove = 5 << 20;

// A value near the row's mean: the mean of eight vectors spread over the row (of the first one in a short row).
template <class T>
float pivot_of(const T* x, int64_t C) {
  constexpr int L = Vec::lanes;
  if (C < L) return widen(*x);
  const int64_t step = C / (8 * L) * L;
  const auto pair = [&](int i) { return load(x + i * step) + load(x + (i + 1) * step); };
  return sum((pair(0) + pair(2)) + (pair(4) + pair(6))) * (0.125f / L);
}

// One walk over the channels normalises row x and takes the moments of row `next`: while stores of the one wait for the
// caches, the other computes, and the sums across lanes, root and division have the start of the next walk to hide in.
// Cycles for 16 floats of 1536 channels (Zen 4, one thread): 8.4 in L2 and 9.3 in L3 with three passes a row, now 6.8
// and 8.0 to 8.4, a copy 4.2 and 6.7; the pipes need 4 (4 loads). bf16: 12.8, now 8.6; the pipes need 6.8 (13.5
// operations). Row x is read from its end, where L1 still holds what was measured last: from its start 7.9 in L2
// and 8.6 to 9.1 in L3, 0.71 to 0.79 of memcpy's speed there in place of 0.78 to 0.82. (What ran before and what lies
// in the caches moves such a ratio more: 0.65 to 1.1 with arrays of which a rival's copy had pushed out a part.) Tried
// and slower: the next row's moments two walks ahead (10.0 in L3: three rows, gain, offset and y overflow L1), two rows
// at a time sharing the loads of gain and offset (13.8; measured and written in two loops 8.9, four rows 9.4), the
// pivot a row earlier (8.9), every other row from its end (8.7), prefetching x or y of 6 MB inside an idle L3 (8.5
// to 10.7), stores past the caches (9.6). All loads of a block stand before its stores, so that an output 64 bytes
// after the input modulo 4096 does not delay them (10.5).
template <bool kLayer, Stores kStores, bool kTwoStages, bool kWrite, class T>
Moments walk(const T* x, Statistics s, Folded by, T* y, const T* next, const T* ahead, T* y_ahead, int64_t C) {
  constexpr bool kPastCache = kStores == Stores::past_cache;
  constexpr int L = Vec::lanes;
  const float pivot = kLayer ? pivot_of(next, C) : 0.0f;
  const Vec near = broadcast(pivot), mean = broadcast(s.mean), rstd = broadcast(s.rstd);
  Vec sums[4] = {zero(), zero(), zero(), zero()}, squares[4] = {zero(), zero(), zero(), zero()};
  const auto measure = [&](int j, Vec v, int k) {
    const Vec d = kLayer ? keep(v - near, k) : v;
    if (kLayer) sums[j] = sums[j] + d;
    squares[j] = fma(d, d, squares[j]);
  };
  const auto value = [&](Vec v, int64_t i, int k) {
    v = fma((v - mean) * rstd, load(by.gain + i, k), load(by.offset + i, k));
    return kTwoStages ? fma(v, load(by.outer_gain + i, k), load(by.outer_offset + i, k)) : v;
  };
  const int64_t last = (C / (4 * L) - 1) * 4 * L;
  for_blocks(
      C,
      [&](int64_t i) {
        const int64_t at = kPastCache ? i : last - i;
        Vec v[4];
        if (kWrite)
          for (int j = 0; j < 4; ++j) v[j] = value(load_of_block(x + at, j), at + j * L, L);
        for (int j = 0; j < 4; ++j) measure(j, load_of_block(next + i, j), L);
        if (kWrite && kPastCache) {
          prefetch_block(ahead + i);
          stream_block(y + at, v);
        } else if (kWrite) {
          if (kStores == Stores::asked_ahead) {
            prefetch_block(ahead + i);
            prefetch_block<Access::write>(y_ahead + at);
          }
          store_block(y + at, v);
        }
      },
      [&](int64_t i, int k) {
        measure(0, load(next + i, k), k);
        if (kWrite) store(y + i, value(load(x + i, k), i, k), k);
      });
  return {pivot, kLayer ? sum((sums[0] + sums[1]) + (sums[2] + sums[3])) : 0.0f,
          sum((squares[0] + squares[1]) + (squares[2] + squares[3]))};
}

// False where memory ran out: no exception may leave a parallel region.
template <bool kLayer, Stores kStores, class T>
bool forward_rows(const AdalnModulateArgs& a, int64_t begin, int64_t end) {
  Scratch<4> scratch(a.channels);
  if (!scratch.ready()) return false;
  const Folded by{scratch.row(0), scratch.row(1), scratch.row(2), scratch.row(3)};
  const int64_t C = a.channels;
  const bool per_row = a.shift.time_stride || a.scale.time_stride;
  const PagesAhead<T> pages(a.y, a.batch * a.time, a.time, C, begin, end);
  const auto input = [&](int64_t r) {
    if (r >= end) r = end - 1;
    return row<T>(a.x, r / a.time, r % a.time);
  };
  const T *x = input(begin), *next = input(begin + 1);
  Statistics s =
      finish<kLayer>(walk<kLayer, Stores::cached, false, false, T>(x, {}, by, nullptr, x, x, nullptr, C), x, a);
  int64_t folded = -1;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / a.time, t = r % a.time;
    const Modulation<T> m(a, b, t);
    if (per_row || b != folded) fold(m, C, by), folded = b;
    pages.at(r);
    const T* ahead = input(r + 2);
    const auto step = two_stages(m) ? walk<kLayer, kStores, true, true, T> : walk<kLayer, kStores, false, true, T>;
    const int64_t after = r + 1 < end ? r + 1 : r;
    T* y_ahead = row<T>(a.y, after / a.time, after % a.time);
    s = finish<kLayer>(step(x, s, by, row<T>(a.y, b, t), next, ahead, y_ahead, C), next, a);
    x = next;
    next = ahead;
  }
  if (kStores == Stores::past_cache) stream_fence();
  return true;
}

template <bool kLayer, class T>
auto rows_of(Stores stores) {
  if constexpr (Vec::lanes > 1) {
    if (stores == Stores::past_cache) return forward_rows<kLayer, Stores::past_cache, T>;
    if (stores == Stores::asked_ahead) return forward_rows<kLayer, Stores::asked_ahead, T>;
  }
  return forward_rows<kLayer, Stores::cached, T>;
}

template <class T>
void forward(const AdalnModulateArgs& a) {
  const int64_t rows = a.batch * a.time, C = a.channels;
  const bool large = rows * C * static_cast<int64_t>(sizeof(T)) > kAskAbove;
  const Stores stores = past_cache<T>(a.y, rows, C) ? Stores::past_cache : large ? Stores::asked_ahead : Stores::cached;
  bool failed = false;
  parallel_for(rows, kGrainElements / (C + 1) + 1, [&](int64_t begin, int64_t end) {
    const auto layer = rows_of<true, T>(stores), rms = rows_of<false, T>(stores);
    if (!(a.norm == Norm::layer ? layer : rms)(a, begin, end)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

}  // namespace

void adaln_modulate(const AdalnModulateArgs& a) {
  with_type(a.dtype, [&](auto t) { forward<decltype(t)>(a); });
}

void adaln_modulate_backward(const AdalnModulateBackwardArgs& a) {
  with_type(a.forward.dtype, [&](auto t) { adaln_backward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
