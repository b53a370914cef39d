// SPDX-License-Identifier: Apache-2.0
// What kernels over rows share: addresses, and when their results go past the caches.
#pragma once
#include "../ops/rows.h"
#include "storage.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// One thread's share should outweigh the start of a parallel region, a few microseconds.
constexpr int64_t kGrainElements = 16384;

template <class T>
const T* row(const RowView& v, int64_t b, int64_t t) {
  return static_cast<const T*>(v.data) + b * v.batch_stride + t * v.time_stride;
}
template <class T>
T* row(const RowOutput& v, int64_t b, int64_t t) {
  return static_cast<T*>(v.data) + b * v.batch_stride + t * v.time_stride;
}

// Whether every row begins on a cache line, which streaming stores need.
template <class T>
bool on_lines(const RowOutput& y) {
  constexpr uintptr_t line = 64;
  return reinterpret_cast<uintptr_t>(y.data) % line == 0 && y.batch_stride * sizeof(T) % line == 0 &&
         y.time_stride * sizeof(T) % line == 0;
}
// Whether `rows` rows of `channels` go past the caches.
template <class T>
bool past_cache(const RowOutput& y, int64_t rows, int64_t channels) {
  return Vec::lanes > 1 && on_lines<T>(y) && rows * channels * static_cast<int64_t>(sizeof(T)) > kStreamBytes;
}

// malloc maps blocks above 32 MB anew for every call, smaller ones at times, so the first store into each page of such
// an output faults, and the clearing of the page evicts the row at work from L1. A byte of each page of the next 128 kB
// is written first: 24 ms for 50 MB in place of 33, as long as memcpy's. Of pages that exist it fetches the
// translation: 8.2 cycles for 16 floats in L3 in place of 8.6.
constexpr int64_t kTouchAbove = 4 << 20, kTouchBytes = 128 << 10, kPageBytes = 4096;

template <class T>
class PagesAhead {
 public:
  // Of rows [begin, end) of one thread, out of `rows` rows of `channels`, `time` of them a sample.
  PagesAhead(const RowOutput& y, int64_t rows, int64_t time, int64_t channels, int64_t begin, int64_t end)
      : y_(y), time_(time), begin_(begin), end_(end), row_bytes_(channels * static_cast<int64_t>(sizeof(T))) {
    at_once_ = rows * row_bytes_ > kTouchAbove ? kTouchBytes / row_bytes_ + 1 : 0;
  }
  // Before the first store into row r.
  void at(int64_t r) const {
    if (!at_once_ || (r - begin_) % at_once_) return;
    for (int64_t q = r; q < end_ && q < r + at_once_; ++q) touch(row<T>(y_, q / time_, q % time_));
  }

 private:
  void touch(T* y) const {
    const uintptr_t first = reinterpret_cast<uintptr_t>(y), last = first + static_cast<uintptr_t>(row_bytes_);
    for (uintptr_t page = (first + kPageBytes - 1) / kPageBytes * kPageBytes; page < last; page += kPageBytes)
      *reinterpret_cast<volatile char*>(page) = 0;
  }
  const RowOutput& y_;
  int64_t time_, begin_, end_, row_bytes_, at_once_;
};

// Rows of floats for one thread: on its stack up to 4096 channels.
template <int kRows>
class Scratch {
 public:
  explicit Scratch(int64_t channels)
      : stride_((channels + 15) / 16 * 16),
        heap_(stride_ > kInline
                  ? static_cast<float*>(__builtin_malloc(kRows * sizeof(float) * static_cast<size_t>(stride_)))
                  : nullptr) {}
  ~Scratch() { __builtin_free(heap_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ready() const { return stride_ <= kInline || heap_; }
  float* row(int i) { return (heap_ ? heap_ : inline_) + i * stride_; }

 private:
  static constexpr int64_t kInline = 4096;
  int64_t stride_;
  float* heap_;
  alignas(64) float inline_[kRows * kInline];
};

// Lanes [i, i + k) of the sum over rows j of partial[j], in the order of j.
inline Vec sum_rows(const float* partial, int64_t rows, int64_t C, int64_t i, int k) {
  Vec v = zero();
  for (int64_t j = 0; j < rows; ++j) v = v + load(partial + j * C + i, k);
  return v;
}
template <class T>
void add_rows(const float* partial, int64_t rows, int64_t C, T* out) {
  const auto column = [&](int64_t i, int k) { store(out + i, sum_rows(partial, rows, C, i, k), k); };
  for_lanes(C, [&](int64_t i) { column(i, Vec::lanes); }, column);
}

// Into L2: one block of a row that will be read or written.
enum class Access : int { read, write };
template <Access kAccess = Access::read, class T>
inline void prefetch_block(const T* p) {
  for (int64_t j = 0; j < 4 * Vec::lanes; j += 64 / static_cast<int64_t>(sizeof(T)))
    __builtin_prefetch(p + j, static_cast<int>(kAccess), 2);
}

template <bool kPastCache, class T>
inline void put_block(T* p, const Vec (&v)[4]) {
  if (kPastCache)
    stream_block(p, v);
  else
    store_block(p, v);
}

// The block of a branch of B beside a stream of T, in the order of T's blocks.
template <bool kPastCache, class T>
inline void put_beside(const T*, T* p, const Vec (&v)[4]) {
  put_block<kPastCache>(p, v);
}
template <bool kPastCache, class T, class B>
inline void put_beside(const T*, B* p, const Vec (&v)[4]) {
  for (int j = 0; j < 4; ++j)
    if (kPastCache)
      stream(p + j * Vec::lanes, v[j]);
    else
      store(p + j * Vec::lanes, v[j]);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
