// SPDX-License-Identifier: Apache-2.0
#include "../ops/adaln_modulate.h"

#include "parallel.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// malloc maps blocks above 32 MB anew for every call, smaller ones at times, so the first store into each page of such
// an output faults, and the clearing of the page evicts the row at work from L1. A byte of each page of the next 128 kB
// is written first: 24 ms for 50 MB in place of 33, as long as memcpy's. Of pages that exist it fetches the
// translation: 8.2 cycles for 16 floats in L3 in place of 8.6.
constexpr int64_t kTouchAbove = 4 << 20, kTouchBytes = 128 << 10, kPageBytes = 4096;

struct Statistics {
  float mean, rstd;
};

inline Statistics from_squares(float mean, float squares, int64_t n, float eps) {
  return {mean, 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps)};
}

// Sum of (x - mean)^2: a second pass over what the first one left in L1, since sum of squares minus square of sums
// cancels.
template <class T>
float squared_deviation(const T* x, int64_t n, float mean) {
  const Vec m = broadcast(mean);
  return sum_lanes(n, [&](int64_t i, int k) {
    const Vec d = k == Vec::lanes ? load(x + i) - m : keep(load(x + i, k) - m, k);
    return d * d;
  });
}

template <class T>
Statistics statistics(const T* x, int64_t n, float eps, Norm norm) {
  float mean = 0.0f;
  if (norm == Norm::layer)
    mean = sum_lanes(n, [&](int64_t i, int k) { return load(x + i, k); }) / static_cast<float>(n);
  return from_squares(mean, squared_deviation(x, n, mean), n, eps);
}

// The vectors that one row meets; null where an argument is absent.
template <class T>
struct Modulation {
  const T *shift, *scale, *weight, *bias;

  Modulation(const AdalnModulateArgs& a, int64_t b, int64_t t)
      : shift(a.shift.data ? row<T>(a.shift, b, t) : nullptr),
        scale(a.scale.data ? row<T>(a.scale, b, t) : nullptr),
        weight(static_cast<const T*>(a.weight)),
        bias(static_cast<const T*>(a.bias)) {}

  // a = n * weight + bias
  Vec affine(Vec n, int64_t i, int k) const {
    if (weight) n = n * load(weight + i, k);
    return bias ? n + load(bias + i, k) : n;
  }
  Vec gain(int64_t i, int k) const { return broadcast(1.0f) + load(scale + i, k); }
};

// Almost every variant is y = n * gain + offset with gain = weight * (1 + scale) and offset = shift or bias, made once
// for a sample, so that the loop over its rows is the same few instructions. With both a bias and a scale the two
// stages stay apart: folded into one, an infinite scale would meet itself with the other sign and give NaN.
struct Folded {
  float *gain, *offset, *outer_gain, *outer_offset;
};

template <class T>
bool two_stages(const Modulation<T>& m) {
  return m.bias && m.scale;
}

template <class T>
void fold(const Modulation<T>& m, int64_t C, const Folded& f) {
  const auto write = [&](int64_t at, int k, const auto& read) {
    const Vec one = broadcast(1.0f), weight = m.weight ? read(m.weight) : one;
    const Vec scale = m.scale ? one + read(m.scale) : one, shift = m.shift ? read(m.shift) : zero();
    if (two_stages(m)) {
      store(f.gain + at, weight, k);
      store(f.offset + at, read(m.bias), k);
      store(f.outer_gain + at, scale, k);
      store(f.outer_offset + at, shift, k);
    } else {
      store(f.gain + at, m.weight ? weight * scale : scale, k);
      store(f.offset + at, m.bias ? read(m.bias) + shift : shift, k);
    }
  };
  for_blocks(
      C,
      [&](int64_t i) {
        for (int j = 0; j < 4; ++j)
          write(i + j * Vec::lanes, Vec::lanes, [&](const T* p) { return load_of_block(p + i, j); });
      },
      [&](int64_t i, int k) { write(i, k, [&](const T* p) { return load(p + i, k); }); });
}

// Sums of x - pivot and of its square (rms: of x squared).
struct Moments {
  float pivot, total, squares;
};

// A value near the row's mean: the mean of eight vectors spread over the row (of the first one in a short row).
template <class T>
float pivot_of(const T* x, int64_t C) {
  constexpr int L = Vec::lanes;
  if (C < L) return widen(*x);
  const int64_t step = C / (8 * L) * L;
  const auto pair = [&](int i) { return load(x + i * step) + load(x + (i + 1) * step); };
  return sum((pair(0) + pair(2)) + (pair(4) + pair(6))) * (0.125f / L);
}

// One pass over a row suffices while the pivot lies within a quarter of the standard deviation: then the subtraction
// loses nothing to speak of. Any other row, and one with NaN or infinities, takes two passes.
template <bool kLayer, class T>
Statistics finish(Moments m, const T* x, const AdalnModulateArgs& a) {
  if (!kLayer) return from_squares(0.0f, m.squares, a.channels, a.eps);
  const float n = static_cast<float>(a.channels), lost = m.total * m.total / n, squares = m.squares - lost;
  if (!(lost <= 0.0625f * squares)) return statistics(x, a.channels, a.eps, a.norm);
  return from_squares(m.pivot + m.total / n, squares, a.channels, a.eps);
}

// One walk over the channels normalises row x and takes the moments of row `next`: while stores of the one wait for the
// caches, the other computes, and the sums across lanes, root and division have the start of the next walk to hide in.
// Cycles for 16 floats of 1536 channels (Zen 4, one thread): 8.4 in L2 and 9.3 in L3 with three passes a row, now 6.8
// and 8.6, a copy 4.2 and 6.7; the pipes need 4 (4 loads). bf16: 12.8, now 8.6; the pipes need 6.8 (13.5 operations).
// Tried and slower: the next row's moments two walks ahead (10.0 in L3: three rows, gain, offset and y overflow L1),
// two rows at a time sharing the loads of gain and offset (13.8), prefetching x or y inside L3 (8.5 to 10.7). All loads
// of a block stand before its stores, so that an output 64 bytes after the input modulo 4096 does not delay them
// (10.5).
template <bool kLayer, bool kPastCache, bool kTwoStages, bool kWrite, class T>
Moments walk(const T* x, Statistics s, Folded by, T* y, const T* next, const T* ahead, int64_t C) {
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
  for_blocks(
      C,
      [&](int64_t i) {
        Vec v[4];
        if (kWrite)
          for (int j = 0; j < 4; ++j) v[j] = value(load_of_block(x + i, j), i + j * L, L);
        for (int j = 0; j < 4; ++j) measure(j, load_of_block(next + i, j), L);
        if (kWrite && kPastCache) {
          for (int64_t j = 0; j < 4 * L; j += 64 / static_cast<int64_t>(sizeof(T)))
            __builtin_prefetch(ahead + i + j, 0, 2);
          stream_block(y + i, v);
        } else if (kWrite) {
          store_block(y + i, v);
        }
      },
      [&](int64_t i, int k) {
        measure(0, load(next + i, k), k);
        if (kWrite) store(y + i, value(load(x + i, k), i, k), k);
      });
  return {pivot, kLayer ? sum((sums[0] + sums[1]) + (sums[2] + sums[3])) : 0.0f,
          sum((squares[0] + squares[1]) + (squares[2] + squares[3]))};
}

template <class T>
void touch_pages(T* y, int64_t C) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(y), end = begin + static_cast<uintptr_t>(C) * sizeof(T);
  for (uintptr_t page = (begin + kPageBytes - 1) / kPageBytes * kPageBytes; page < end; page += kPageBytes)
    *reinterpret_cast<volatile char*>(page) = 0;
}

// False where memory ran out: no exception may leave a parallel region.
template <bool kLayer, bool kPastCache, class T>
bool forward_rows(const AdalnModulateArgs& a, int64_t begin, int64_t end) {
  Scratch<4> scratch(a.channels);
  if (!scratch.ready()) return false;
  const Folded by{scratch.row(0), scratch.row(1), scratch.row(2), scratch.row(3)};
  const int64_t C = a.channels;
  const bool per_row = a.shift.time_stride || a.scale.time_stride;
  const int64_t row_bytes = C * static_cast<int64_t>(sizeof(T));
  const int64_t touched_rows = a.batch * a.time * row_bytes > kTouchAbove ? kTouchBytes / row_bytes + 1 : 0;
  const auto input = [&](int64_t r) {
    if (r >= end) r = end - 1;
    return row<T>(a.x, r / a.time, r % a.time);
  };
  const T *x = input(begin), *next = input(begin + 1);
  Statistics s = finish<kLayer>(walk<kLayer, false, false, false, T>(x, {}, by, nullptr, x, x, C), x, a);
  int64_t folded = -1;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / a.time, t = r % a.time;
    const Modulation<T> m(a, b, t);
    if (per_row || b != folded) fold(m, C, by), folded = b;
    if (touched_rows && (r - begin) % touched_rows == 0)
      for (int64_t q = r; q < end && q < r + touched_rows; ++q) touch_pages(row<T>(a.y, q / a.time, q % a.time), C);
    const T* ahead = input(r + 2);
    const auto step =
        two_stages(m) ? walk<kLayer, kPastCache, true, true, T> : walk<kLayer, kPastCache, false, true, T>;
    s = finish<kLayer>(step(x, s, by, row<T>(a.y, b, t), next, ahead, C), next, a);
    x = next;
    next = ahead;
  }
  if (kPastCache) stream_fence();
  return true;
}

template <class T>
void forward(const AdalnModulateArgs& a) {
  const int64_t rows = a.batch * a.time, C = a.channels;
  const bool streamed = past_cache<T>(a.y, rows, C);
  bool failed = false;
  parallel_for(rows, kGrainElements / (C + 1) + 1, [&](int64_t begin, int64_t end) {
    const auto layer = streamed ? forward_rows<true, true, T> : forward_rows<true, false, T>;
    const auto rms = streamed ? forward_rows<false, true, T> : forward_rows<false, false, T>;
    if (!(a.norm == Norm::layer ? layer : rms)(a, begin, end)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

struct Accumulators {
  float *shift, *scale, *weight, *bias;  // one row of `partial` each, or null

  void add(Vec dy, Vec u, Vec n, Vec affine, int64_t i, int k) const {
    if (shift) store(shift + i, load(shift + i, k) + dy, k);
    if (scale) store(scale + i, load(scale + i, k) + dy * affine, k);
    if (weight) store(weight + i, load(weight + i, k) + u * n, k);
    if (bias) store(bias + i, load(bias + i, k) + u, k);
  }
};

template <class T>
void backward_row(const AdalnModulateBackwardArgs& a, int64_t b, int64_t t, const Accumulators& sums) {
  const AdalnModulateArgs& f = a.forward;
  const int64_t C = f.channels;
  const T* x = row<T>(f.x, b, t);
  const T* dy = row<T>(a.dy, b, t);
  T* dx = row<T>(a.dx, b, t);
  T* dshift = a.shift_per_row ? row<T>(a.dshift, b, t) : nullptr;
  T* dscale = a.scale_per_row ? row<T>(a.dscale, b, t) : nullptr;
  const Modulation<T> m(f, b, t);
  const Statistics s = statistics(x, C, f.eps, f.norm);
  const Vec mean = broadcast(s.mean), rstd = broadcast(s.rstd);
  const bool sums_wanted = sums.shift || sums.scale || sums.weight || sums.bias;

  const auto normalised = [&](int64_t i, int k) { return keep((load(x + i, k) - mean) * rstd, k); };
  const auto scaled_dy = [&](int64_t i, int k) {  // u = dy * (1 + scale)
    const Vec d = load(dy + i, k);
    return m.scale ? d * m.gain(i, k) : d;
  };
  const auto g = [&](int64_t i, int k) {  // g = u * weight
    const Vec u = scaled_dy(i, k);
    return m.weight ? u * load(m.weight + i, k) : u;
  };

  Vec sum_g = zero(), sum_gn = zero();
  const auto reduce = [&](int64_t i, int k) {
    const Vec n = normalised(i, k), u = scaled_dy(i, k), d = load(dy + i, k);
    const Vec gi = m.weight ? u * load(m.weight + i, k) : u;
    sum_g = sum_g + gi;
    sum_gn = fma(gi, n, sum_gn);
    const Vec affine = m.affine(n, i, k);
    if (sums_wanted) sums.add(d, u, n, affine, i, k);
    if (dshift) store(dshift + i, d, k);
    if (dscale) store(dscale + i, d * affine, k);
  };
  for_lanes(C, [&](int64_t i) { reduce(i, Vec::lanes); }, reduce);

  const float inv = 1.0f / static_cast<float>(C);
  const Vec mean_g = broadcast(f.norm == Norm::layer ? sum(sum_g) * inv : 0.0f), mean_gn = broadcast(sum(sum_gn) * inv);
  const auto input_gradient = [&](int64_t i, int k) {
    store(dx + i, rstd * (g(i, k) - mean_g - normalised(i, k) * mean_gn), k);
  };
  for_lanes(C, [&](int64_t i) { input_gradient(i, Vec::lanes); }, input_gradient);
}

template <class T>
void backward(const AdalnModulateBackwardArgs& a) {
  const AdalnModulateArgs& f = a.forward;
  const int64_t C = f.channels, blocks = time_blocks(f.time), plane = f.batch * blocks * C;
  const AdalnModulateSums index = partial_sums(a);
  const auto sum_row = [&](int which, int64_t item) {
    return which < 0 ? nullptr : a.partial + which * plane + item * C;
  };
  parallel_for(f.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / blocks, first = item % blocks * kTimeBlock;
      const int64_t last = first + kTimeBlock < f.time ? first + kTimeBlock : f.time;
      const Accumulators sums{sum_row(index.shift, item), sum_row(index.scale, item), sum_row(index.weight, item),
                              sum_row(index.bias, item)};
      for (float* p : {sums.shift, sums.scale, sums.weight, sums.bias})
        if (p) memset(p, 0, sizeof(float) * static_cast<size_t>(C));
      for (int64_t t = first; t < last; ++t) backward_row<T>(a, b, t, sums);
    }
  });
  for (int64_t b = 0; b < f.batch; ++b) {
    if (index.shift >= 0) add_rows(sum_row(index.shift, b * blocks), blocks, C, row<T>(a.dshift, b, 0));
    if (index.scale >= 0) add_rows(sum_row(index.scale, b * blocks), blocks, C, row<T>(a.dscale, b, 0));
  }
  if (index.weight >= 0) add_rows(sum_row(index.weight, 0), f.batch * blocks, C, static_cast<T*>(a.dweight));
  if (index.bias >= 0) add_rows(sum_row(index.bias, 0), f.batch * blocks, C, static_cast<T*>(a.dbias));
}

}  // namespace

void adaln_modulate(const AdalnModulateArgs& a) {
  with_type(a.dtype, [&](auto t) { forward<decltype(t)>(a); });
}

void adaln_modulate_backward(const AdalnModulateBackwardArgs& a) {
  with_type(a.forward.dtype, [&](auto t) { backward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
