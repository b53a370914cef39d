// SPDX-License-Identifier: Apache-2.0
#include "../ops/conv1d.h"

#include "conv1d_steps.h"
#include "conv1d_weight.h"
#include "gemm_lanes.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Steps or windows packed at once: half of a 1 MB second-level cache beside the panels of the weight, but enough rows
// to be worth fetching those. Kernels of 1 with 128 channels are bound otherwise: a step's products take no longer
// there than its snake, its sum with the residual and the way of its 768 bytes from and to the third-level cache.
constexpr int64_t kPackedAtOnce = int64_t{384} << 10;
constexpr int64_t kFewestRows = 112;
// Steps are there twice, as they are made and packed, and so are the residual and y.
constexpr int64_t kStepsAtOnce = int64_t{128} << 10;

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

// Values of k in a line of A.
int64_t line_values(Dot dot) { return kLineBytes / a_step_bytes(dot) * step_size(dot); }
int64_t line_steps(Dot dot) { return kLineBytes / a_step_bytes(dot); }

// Steps that are packed once, side by side, and the windows over them. A tap is a group of lines; the next tap's lie
// `dilation` steps on. Where a tap has few lines, those of the next panel are asked for.
struct Windows {
  Dot dot;
  int64_t count, steps, dilation, lines;  // lines of a step, all of them
  char* data;                             // of the first window's first step
  int64_t first_line, of_tap;             // lines of a tap that are met

  static int64_t bytes(int64_t steps, int64_t lines) { return steps * lines * kLineBytes; }
  int64_t panels() const { return (count + kRows - 1) / kRows; }
  int64_t first(int64_t p) const { return p * count / panels(); }
  int rows(int64_t p) const { return static_cast<int>(first(p + 1) - first(p)); }
  Lines lines_of(int64_t p) const {
    const int64_t stride = steps * kLineBytes;
    const int64_t ahead = of_tap > 4 * kLinesAhead ? kLinesAhead * stride : kRows * kLineBytes;
    return {data + first(p) * kLineBytes + first_line * stride, stride, ahead, of_tap,
            dilation * kLineBytes - (of_tap - 1) * stride};
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

// What follows the products of windows (b, t), (b, t + 1), ...
template <class T>
Finish<T> finish_at(const Conv1dArgs& a, int64_t b, int64_t t, const float* row_scales, const float* column_scales) {
  return {static_cast<T*>(a.y.data) + b * a.y.batch_stride + t * a.y.time_stride,
          a.y.time_stride,
          static_cast<const T*>(a.bias),
          a.residual.data ? step_of<T>(a.residual, b, t) : nullptr,
          a.residual.time_stride,
          row_scales,
          column_scales};
}

// Over windows, each packed whole: of int8, whose windows have a scale each, and of channels that break a line.
template <class T>
class OverWindows {
 public:
  OverWindows(const Conv1dArgs& a, Dot dot, const float* constants)
      : a_(a), weight_{dot, a.taps * a.channels, a.outputs, const_cast<void*>(a.weight)}, constants_(constants) {
    const auto* scales = static_cast<const char*>(a.weight) + packed_scales(weight_.N, weight_.K);
    column_scales_ = dot == Dot::int8 ? reinterpret_cast<const float*>(scales) : nullptr;
    const int64_t rows = kPackedAtOnce / (a_bytes(dot, 1, weight_.K) + 1) / kRows * kRows;
    chunk_ = rows < kFewestRows ? kFewestRows : rows;
  }

  int64_t panels() const { return weight_.panels(); }
  Grid grid() const { return gemm_grid(a_.batch * a_.time, weight_); }

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
    const bool as_it_is = a_.taps == 1 && !a_.alpha && a_.padding == 0 && a_.stride_c == 1;
    Source source{nullptr, a_.dtype, C, 1, a_.dilation > 1 ? C : 0, a_.dilation * C};
    if (as_it_is)
      source = {step_of<T>(a_.x, b, t), a_.dtype, a_.x.time_stride, 1};
    else
      source.data = steps.meet(b, t, count);
    const Finish<T> finish = finish_at<T>(a_, b, t, scales, column_scales_);
    if (weight_.dot == Dot::int8) {
      quantize_a(windows, source, scales, 0, panels);
      gemm_block<int32_t>(windows, 0, panels, weight_, first_n, last_n, finish);
    } else {
      pack_a(windows, source, 0, panels);
      gemm_block<float>(windows, 0, panels, weight_, first_n, last_n, finish);
    }
  }

  const Conv1dArgs& a_;
  const PackedB weight_;
  const float *constants_, *column_scales_;
  int64_t chunk_;
};

// Over steps that are packed once for all taps; the weight is packed or lies as it is. Sums of a plain one run over
// blocks of channels, in each over taps, in each over channels. One thread of Zen 4, bfloat16, ceiling 222 GFLOP/s:
// kernels of 7 reach 187 to 216; when every window was packed, 0.76 to 0.94 of it.
template <class T>
class OverSteps {
 public:
  static bool takes(const Conv1dArgs& a, Dot dot) {
    return a.packing == Packing::none || (dot != Dot::int8 && a.channels % line_values(dot) == 0);
  }

  OverSteps(const Conv1dArgs& a, Dot dot, const float* constants)
      : a_(a),
        plain_(a.packing == Packing::none),
        phases_(plain_ ? a.phases : 1),
        weight_{a.weight, a.outputs / phases_, a.channels, a.kernel, a.weight_stride_o, a.weight_stride_c, a.taps,
                phases_,  a.transposed},
        dot_(dot),
        constants_(constants) {
    const int64_t of_line = line_steps(dot) * kStepBytes * weight_.parts(), most = kBlockBytes / of_line;
    lines_ = (a.channels + line_values(dot) - 1) / line_values(dot);
    blocks_ = !plain_ ? 1 : most < 1 ? lines_ : (lines_ + most - 1) / most;
    at_once_ = most < 2 * lines_ ? 1 : most / lines_;
    kept_ = plain_ && blocks_ == 1 && panels() * panel_bytes(lines_) <= kKeptBytes;
    const int64_t rows = (kept_ || !plain_ ? kStepsAtOnce : kStepsBytes) / Windows::bytes(1, lines_) / kRows * kRows;
    chunk_ = rows < kFewestRows ? kFewestRows : rows;
  }

  int64_t panels() const { return weight_.panels(); }
  // A row is packed once for all taps; a step of a panel is 128 bytes, from memory for the first time.
  Grid grid() const {
    const int64_t steps = a_.taps * lines_ * line_steps(dot_);
    return gemm_grid(a_.batch * a_.time, panels() * phases_, steps, 0.75 / static_cast<double>(a_.taps),
                     plain_ ? 24 : 4);
  }

  // As OverWindows.
  bool operator()(int64_t begin, int64_t end, int64_t first_n, int64_t last_n) const {
    const int64_t chunks = (end - begin + chunk_ - 1) / chunk_, most_lines = (lines_ + blocks_ - 1) / blocks_;
    const Scratch laid(plain_ ? panel_bytes(most_lines) * (kept_ ? last_n - first_n : at_once_) : 0);
    const int64_t most = (chunk_ < a_.time ? chunk_ : a_.time) + Steps<T>::reach(a_);  // of a sample at once
    const Scratch memory(most * a_.channels * static_cast<int64_t>(sizeof(T)));
    if (!laid.ready() || !memory.ready()) return false;
    Steps<T> made(a_, constants_, memory.as<T>());
    if (kept_) lay({first_n, last_n, 0, lines_, 0, a_.channels}, laid.as<char>());
    for (int64_t i = 0; i < chunks; ++i)
      if (!chunk(begin + i * (end - begin) / chunks, begin + (i + 1) * (end - begin) / chunks, first_n, last_n,
                 laid.as<char>(), made))
        return false;
    return true;
  }

 private:
  // A block of the weight and the steps beside it should lie in a second-level cache of 1 MB. Small weights are laid
  // out once; of large ones every block is laid out again for the next steps, which are more at once then.
  static constexpr int64_t kBlockBytes = int64_t{512} << 10, kStepsBytes = int64_t{1} << 20,
                           kKeptBytes = int64_t{4} << 20;

  // body(b, t, count, first step, first panel) for the part of each sample in [begin, end).
  template <class Body>
  void each_sample(int64_t begin, int64_t end, const Body& body) const {
    int64_t step = 0, panel = 0;
    for (int64_t at = begin; at < end;) {
      const int64_t b = at / a_.time, t = at % a_.time, count = end - at < a_.time - t ? end - at : a_.time - t;
      body(b, t, count, step, panel);
      step += count + Steps<T>::reach(a_), panel += (count + kRows - 1) / kRows, at += count;
    }
  }

  // Lines [first, last) of channels [c0, c1), for some panels of outputs: several where all channels fit.
  struct Block {
    int64_t first_n, last_n, first, last, c0, c1;
  };
  Block block_at(int64_t first_n, int64_t last_n, int64_t i) const {
    const int64_t part = i % blocks_, first = part * lines_ / blocks_, last = (part + 1) * lines_ / blocks_,
                  c1 = last * line_values(dot_), n = first_n + i / blocks_ * at_once_;
    return {n,
            n + at_once_ < last_n ? n + at_once_ : last_n,
            first,
            last,
            first * line_values(dot_),
            c1 < a_.channels ? c1 : a_.channels};
  }
  int64_t panel_bytes(int64_t lines) const { return weight_.parts() * lines * line_steps(dot_) * kStepBytes; }

  void lay(const Block& block, char* out) const {
    const int64_t lines = block.last - block.first;
    for (int64_t n = block.first_n; n < block.last_n; ++n, out += panel_bytes(lines))
      lay_block<T>(weight_, n, block.c0, block.c1, lines * line_steps(dot_), out);
  }

  bool chunk(int64_t begin, int64_t end, int64_t first_n, int64_t last_n, char* laid, Steps<T>& made) const {
    int64_t steps = 0, panels = 0;
    each_sample(begin, end, [&](int64_t, int64_t, int64_t count, int64_t step, int64_t panel) {
      steps = step + count + Steps<T>::reach(a_), panels = panel + (count + kRows - 1) / kRows;
    });
    const int64_t tile_values = kRows * kPanel;
    const Scratch packed(Windows::bytes(steps, lines_)), sums((blocks_ > 1 ? panels * phases_ : 1) * tile_values * 4);
    if (!packed.ready() || !sums.ready()) return false;
    pack(begin, end, packed.as<char>(), made);
    const int64_t all = (last_n - first_n + at_once_ - 1) / at_once_ * blocks_;
    for (int64_t i = 0; i < all; ++i) {
      const Block now = block_at(first_n, last_n, i), next = block_at(first_n, last_n, i + 1);
      const char* block = laid;
      if (!plain_)
        block = static_cast<const char*>(a_.weight) + now.first_n * panel_bytes(lines_);
      else if (kept_)
        block += (now.first_n - first_n) * panel_bytes(lines_);
      else
        lay(now, laid);
      Ahead ahead;
      if (plain_ && !kept_ && i + 1 < all)
        ahead = weight_.ahead(next.first_n, next.last_n, next.c0, next.c1, sizeof(T));
      const int64_t lines = ahead.lines() / (panels * phases_ * (now.last_n - now.first_n)) + 1;
      each_sample(begin, end, [&](int64_t b, int64_t t, int64_t count, int64_t step, int64_t panel) {
        const Windows windows{dot_,
                              count,
                              count + Steps<T>::reach(a_),
                              a_.dilation,
                              lines_,
                              packed.as<char>() + Windows::bytes(step, lines_),
                              now.first,
                              now.last - now.first};
        float* tiles = sums.as<float>() + (blocks_ > 1 ? panel * phases_ * tile_values : 0);
        multiply(windows, now, block, tiles, finish_at<T>(a_, b, t, nullptr, nullptr), [&] { ahead.fetch(lines); });
      });
    }
    return true;
  }

  void pack(int64_t begin, int64_t end, char* out, Steps<T>& made) const {
    each_sample(begin, end, [&](int64_t b, int64_t t, int64_t count, int64_t step, int64_t) {
      const int64_t all = count + Steps<T>::reach(a_);
      pack_lines(dot_, {made.meet(b, t, count), a_.dtype, a_.channels, 1}, all, a_.channels,
                 out + Windows::bytes(step, lines_));
    });
  }

  template <class Meanwhile>
  void multiply(const Windows& windows, const Block& now, const char* block, float* tile, const Finish<T>& finish,
                const Meanwhile& meanwhile) const {
    const int64_t steps = a_.taps * windows.of_tap * line_steps(dot_), outputs = weight_.outputs;
    const bool goes_on = now.first > 0, ends = now.last == lines_;
    for (int64_t m = 0; m < windows.panels(); ++m) {
      const Lines lines = windows.lines_of(m);
      const char* part = block;
      for (int64_t column = now.first_n * kPanel; column < now.last_n * kPanel; column += kPanel) {
        const int columns = static_cast<int>(outputs - column < kPanel ? outputs - column : kPanel);
        for (int64_t r = 0; r < phases_; ++r, part += steps * kStepBytes) {
          meanwhile();
          micro_kernel(dot_, windows.rows(m), columns, steps, lines, part, goes_on ? tile : nullptr, kPanel, tile,
                       kPanel);
          if (ends) finish(windows.first(m), windows.rows(m), r * outputs + column, columns, tile);
          if (blocks_ > 1) tile += kRows * kPanel;
        }
      }
    }
  }

  const Conv1dArgs& a_;
  bool plain_;
  int64_t phases_;
  const ConvWeight weight_;
  Dot dot_;
  const float* constants_;
  int64_t lines_, blocks_, at_once_, chunk_;
  bool kept_;
};

template <class Convolution>
void on_all_threads(const Convolution& convolution, int64_t M) {
  bool failed = false;
  for_cells(convolution.grid(), M, convolution.panels(), [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    if (!convolution(m0, m1, n0, n1)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

template <class T>
void convolve(const Conv1dArgs& a) {
  const Dot dot = dot_of(a);
  const int64_t M = a.batch * a.time;
  const Scratch constants(2 * a.channels * 4 + 64);
  float* of_snake = constants.need<float>();
  if (a.alpha)
    snake_constants(static_cast<const T*>(a.alpha), static_cast<const T*>(a.beta), a.log_scale, a.channels, of_snake,
                    of_snake + a.channels);
  if (OverSteps<T>::takes(a, dot))
    on_all_threads(OverSteps<T>(a, dot, of_snake), M);
  else
    on_all_threads(OverWindows<T>(a, dot, of_snake), M);
}

}  // namespace

void conv1d(const Conv1dArgs& a) {
  with_type(a.dtype, [&](auto t) { convolve<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
