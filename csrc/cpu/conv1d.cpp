// SPDX-License-Identifier: Apache-2.0
#include "../ops/conv1d.h"

#include "gemm.h"
#include "gemm_lanes.h"
#include "scratch.h"
#include "snake.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Windows packed at once: half of a 1 MB second-level cache beside the panels of the weight, but enough rows to be
// worth fetching those. In the decoder of Stable Audio (bfloat16, two threads of Zen 4, ceiling 447 GFLOP/s) kernels of
// 7 reach 357 to 429; those of 1 with 128 channels 153 to 193, for there a step's products take no longer than its
// snake, its sum with the residual and the way of its 768 bytes from and to the third-level cache.
constexpr int64_t kPackedAtOnce = int64_t{384} << 10;
constexpr int64_t kFewestRows = 112;

template <class T>
const T* step_of(const RowView& v, int64_t b, int64_t t) {
  return static_cast<const T*>(v.data) + b * v.batch_stride + t * v.time_stride;
}

// The steps of x that `count` windows meet, snaked, zeros beyond the ends of x. What the windows that follow meet again
// stays where it is made.
template <class T>
class Steps {
 public:
  Steps(const Conv1dArgs& a, const float* constants, T* memory)
      : a_(a), alpha_(constants), inverse_(constants + a.channels), memory_(memory) {}

  static int64_t reach(const Conv1dArgs& a) { return (a.taps - 1) * a.dilation; }

  const T* meet(int64_t b, int64_t t, int64_t count) {
    const int64_t first = t - a_.padding, end = first + count + reach(a_), C = a_.channels;
    int64_t step = first;
    if (b == sample_ && first > first_ && first < end_) {
      memmove(memory_, memory_ + (first - first_) * C, sizeof(T) * static_cast<size_t>((end_ - first) * C));
      step = end_;
    }
    for (; step < end; ++step) make(b, step, memory_ + (step - first) * C);
    sample_ = b, first_ = first, end_ = end;
    return memory_;
  }

 private:
  void make(int64_t b, int64_t step, T* out) const {
    const size_t bytes = sizeof(T) * static_cast<size_t>(a_.channels);
    if (step < 0 || step >= a_.time_in)
      memset(out, 0, bytes);
    else if (a_.alpha)
      snake_row(step_of<T>(a_.x, b, step), out, alpha_, inverse_, a_.channels);
    else
      memcpy(out, step_of<T>(a_.x, b, step), bytes);
  }

  const Conv1dArgs& a_;
  const float *alpha_, *inverse_;
  T* memory_;
  int64_t sample_ = -1, first_ = 0, end_ = 0;
};

// y = sums * scale + bias + residual, rounded once.
template <class T>
struct Finish {
  T* y;
  int64_t stride;
  const T *bias, *residual;
  int64_t residual_stride;
  const float *row_scales, *column_scales;  // int8

  template <class Sums>
  void operator()(int64_t row, int rows, int64_t column, int columns, const Sums* tile) const {
    alignas(64) float offset[kPanel] = {}, scale[kPanel];
    const auto lanes = [&](const auto& body) { for_lanes(columns, [&](int64_t i) { body(i, Vec::lanes); }, body); };
    if (bias) lanes([&](int64_t i, int k) { store(offset + i, load(bias + column + i, k)); });
    if (column_scales) lanes([&](int64_t i, int) { store(scale + i, load(column_scales + column + i)); });
    for (int r = 0; r < rows; ++r, tile += kPanel) {
      T* out = y + (row + r) * stride + column;
      const T* beside = residual ? residual + (row + r) * residual_stride + column : nullptr;
      lanes([&](int64_t i, int k) {
        Vec v = value(tile + i, row + r, scale + i) + load(offset + i);
        if (beside) v = v + load(beside + i, k);
        store(out + i, v, k);
      });
    }
  }

 private:
  Vec value(const float* sums, int64_t, const float*) const { return load(sums); }
  Vec value(const int32_t* sums, int64_t row, const float* scale) const {
    return from_int32(sums) * broadcast(row_scales[row]) * load(scale);
  }
};

Dot dot_of(const Conv1dArgs& a) {
  switch (a.packing) {
    case Packing::float32: return Dot::float32;
    case Packing::bfloat16: return Dot::bfloat16;
    case Packing::int8: return Dot::int8;
    default: return a.dtype == DType::bfloat16 ? Dot::bfloat16 : Dot::float32;
  }
}

template <class T>
class Convolution {
 public:
  Convolution(const Conv1dArgs& a, const PackedB& weight, const float* constants)
      : a_(a), weight_(weight), constants_(constants) {
    const auto* scales = static_cast<const char*>(a.weight) + packed_scales(weight.N, weight.K);
    column_scales_ = weight.dot == Dot::int8 ? reinterpret_cast<const float*>(scales) : nullptr;
    const int64_t rows = kPackedAtOnce / (a_bytes(weight.dot, 1, weight.K) + 1) / kRows * kRows;
    chunk_ = rows < kFewestRows ? kFewestRows : rows;
  }

  // Output steps [begin, end) of all samples, counted through, panels [first_n, last_n) of the weight, on one thread;
  // false where memory ran out.
  bool operator()(int64_t begin, int64_t end, int64_t first_n, int64_t last_n) const {
    const int64_t chunk = chunk_ < end - begin ? chunk_ : end - begin;
    const Scratch packed(a_bytes(weight_.dot, chunk, weight_.K)), scales(column_scales_ ? chunk * 4 : 0),
        memory((chunk + Steps<T>::reach(a_)) * a_.channels * static_cast<int64_t>(sizeof(T)));
    if (!packed.ready() || !scales.ready() || !memory.ready()) return false;
    Steps<T> steps(a_, constants_, memory.as<T>());
    for (int64_t at = begin; at < end;) {
      const int64_t b = at / a_.time, t = at % a_.time, left = end - at < a_.time - t ? end - at : a_.time - t;
      const int64_t count = left < chunk ? left : chunk;
      multiply(steps, b, t, count, packed.as<void>(), scales.as<float>(), first_n, last_n);
      at += count;
    }
    return true;
  }

 private:
  void multiply(Steps<T>& steps, int64_t b, int64_t t, int64_t count, void* memory, float* scales, int64_t first_n,
                int64_t last_n) const {
    const PackedA windows{weight_.dot, count, weight_.K, memory};
    const int64_t panels = windows.panels(), C = a_.channels;
    const bool as_it_is = a_.taps == 1 && !a_.alpha && a_.padding == 0;
    Source source{nullptr, a_.dtype, C, 1, a_.dilation > 1 ? C : 0, a_.dilation * C};
    if (as_it_is)
      source = {step_of<T>(a_.x, b, t), a_.dtype, a_.x.time_stride, 1};
    else
      source.data = steps.meet(b, t, count);
    Finish<T> finish{static_cast<T*>(a_.y.data) + b * a_.y.batch_stride + t * a_.y.time_stride,
                     a_.y.time_stride,
                     static_cast<const T*>(a_.bias),
                     a_.residual.data ? step_of<T>(a_.residual, b, t) : nullptr,
                     a_.residual.time_stride,
                     scales,
                     column_scales_};
    if (weight_.dot == Dot::int8) {
      quantize_a(windows, source, scales, 0, panels);
      gemm_block<int32_t>(windows, 0, panels, weight_, first_n, last_n, finish);
    } else {
      pack_a(windows, source, 0, panels);
      gemm_block<float>(windows, 0, panels, weight_, first_n, last_n, finish);
    }
  }

  const Conv1dArgs& a_;
  const PackedB& weight_;
  const float *constants_, *column_scales_;
  int64_t chunk_;
};

template <class T>
void convolve(const Conv1dArgs& a) {
  const Dot dot = dot_of(a);
  const int64_t K = a.taps * a.channels, M = a.batch * a.time;
  const bool dense = a.packing == Packing::none;
  const Scratch memory(dense ? b_bytes(dot, K, a.outputs) : 0), constants(2 * a.channels * 4 + 64);
  const PackedB weight{dot, K, a.outputs, dense ? memory.need<void>() : const_cast<void*>(a.weight)};
  if (dense) {
    const Source source{a.weight, a.dtype, a.weight_stride_n, a.weight_stride_k};
    parallel_for(weight.panels(), 16384 / (K * kPanel + 1) + 1,
                 [&](int64_t begin, int64_t end) { pack_b(weight, source, begin, end); });
  }
  float* of_snake = constants.need<float>();
  if (a.alpha)
    snake_constants(static_cast<const T*>(a.alpha), static_cast<const T*>(a.beta), a.log_scale, a.channels, of_snake,
                    of_snake + a.channels);
  const Convolution<T> convolution(a, weight, of_snake);
  bool failed = false;
  for_cells(gemm_grid(M, weight), M, weight.panels(), [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    if (!convolution(m0, m1, n0, n1)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

}  // namespace

void conv1d(const Conv1dArgs& a) {
  with_type(a.dtype, [&](auto t) { convolve<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
