// SPDX-License-Identifier: Apache-2.0
// What kernels that normalise rows and modulate them share; formulas in ops/adaln_modulate.h.
#pragma once
#include "../ops/adaln_modulate.h"
#include "parallel.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

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

template <bool kTwoStages>
inline Vec modulated(Vec x, Vec mean, Vec rstd, const Folded& by, int64_t i, int k) {
  const Vec v = fma((x - mean) * rstd, load(by.gain + i, k), load(by.offset + i, k));
  return kTwoStages ? fma(v, load(by.outer_gain + i, k), load(by.outer_offset + i, k)) : v;
}

// Sums of x - pivot and of its square (rms: of x squared).
struct Moments {
  float pivot, total, squares;
};

// One pass over a row suffices while the pivot lies within a quarter of the standard deviation: then the subtraction
// loses nothing to speak of. Any other row, and one with NaN or infinities, takes two passes.
template <bool kLayer, class T>
Statistics finish(Moments m, const T* x, const AdalnModulateArgs& a) {
  if (!kLayer) return from_squares(0.0f, m.squares, a.channels, a.eps);
  const float n = static_cast<float>(a.channels), lost = m.total * m.total / n, squares = m.squares - lost;
  if (!(lost <= 0.0625f * squares)) return statistics(x, a.channels, a.eps, a.norm);
  return from_squares(m.pivot + m.total / n, squares, a.channels, a.eps);
}

struct Accumulators {
  float *shift, *scale, *weight, *bias;  // one row of `partial` each, or null

  void add(Vec dy, Vec u, Vec n, Vec affine, int64_t i, int k) const {
    if (shift) store(shift + i, load(shift + i, k) + dy, k);
    if (scale) store(scale + i, fma(dy, affine, load(scale + i, k)), k);
    if (weight) store(weight + i, fma(u, n, load(weight + i, k)), k);
    if (bias) store(bias + i, load(bias + i, k) + u, k);
  }
};

// One row of the gradients: sink(i, lanes, k) gets dx. The output of the forward, and dy with it, may be of another
// type D than x.
template <class T, class D, class Sink>
void adaln_backward_row(const AdalnModulateBackwardArgs& a, int64_t b, int64_t t, const Accumulators& sums,
                        const Sink& sink) {
  const AdalnModulateArgs& f = a.forward;
  const int64_t C = f.channels;
  const T* x = row<T>(f.x, b, t);
  const D* dy = row<D>(a.dy, b, t);
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
    sink(i, rstd * (g(i, k) - mean_g - normalised(i, k) * mean_gn), k);
  };
  for_lanes(C, [&](int64_t i) { input_gradient(i, Vec::lanes); }, input_gradient);
}

// The whole backward; sink_of(b, t, item) makes the sink of a row in block `item` of the sums, begin(item) opens one.
template <class T, class D, class Begin, class SinkOf>
void adaln_backward(const AdalnModulateBackwardArgs& a, const Begin& begin_block, const SinkOf& sink_of) {
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
      begin_block(item);
      for (int64_t t = first; t < last; ++t) adaln_backward_row<T, D>(a, b, t, sums, sink_of(b, t, item));
    }
  });
  for (int64_t b = 0; b < f.batch; ++b) {
    if (index.shift >= 0) add_rows(sum_row(index.shift, b * blocks), blocks, C, row<T>(a.dshift, b, 0));
    if (index.scale >= 0) add_rows(sum_row(index.scale, b * blocks), blocks, C, row<T>(a.dscale, b, 0));
  }
  if (index.weight >= 0) add_rows(sum_row(index.weight, 0), f.batch * blocks, C, static_cast<T*>(a.dweight));
  if (index.bias >= 0) add_rows(sum_row(index.bias, 0), f.batch * blocks, C, static_cast<T*>(a.dbias));
}

template <class T>
void adaln_backward(const AdalnModulateBackwardArgs& a) {
  adaln_backward<T, T>(
      a, [](int64_t) {},
      [&](int64_t b, int64_t t, int64_t) {
        return [dx = row<T>(a.dx, b, t)](int64_t i, Vec v, int k) { store(dx + i, v, k); };
      });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
