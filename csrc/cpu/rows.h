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

// Whether `rows` rows of `channels` go past the caches: streaming stores need every vector aligned to its own size,
// which is at most a cache line.
template <class T>
bool past_cache(const RowOutput& y, int64_t rows, int64_t channels) {
  constexpr uintptr_t line = 64;
  const bool aligned = reinterpret_cast<uintptr_t>(y.data) % line == 0 && y.batch_stride * sizeof(T) % line == 0 &&
                       y.time_stride * sizeof(T) % line == 0;
  return Vec::lanes > 1 && aligned && rows * channels * static_cast<int64_t>(sizeof(T)) > kStreamBytes;
}

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

template <bool kPastCache, class T>
inline void put_block(T* p, const Vec (&v)[4]) {
  if (kPastCache)
    stream_block(p, v);
  else
    store_block(p, v);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
