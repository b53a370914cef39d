// SPDX-License-Identifier: Apache-2.0
#include "../ops/adaln_modulate.h"

#include "parallel.h"
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// One thread's share should outweigh the start of a parallel region, a few microseconds.
constexpr int64_t kGrainElements = 16384;
// Outputs larger than this go past the caches: a normal store first reads the line it is about to overwrite, a third of
// all traffic (two thirds of a copy's speed instead of all of it, measured on Zen 4 at 25 MB and above).
constexpr int64_t kStreamBytes = 12 << 20;

struct Statistics {
  float mean, rstd;
};

// Two passes over a row that the first one leaves in L1: sum of squares minus square of sums would cancel.
template <class T>
Statistics statistics(const T* x, int64_t n, float eps, Norm norm) {
  const float inv = 1.0f / static_cast<float>(n);
  float mean = 0.0f;
  if (norm == Norm::layer) mean = sum_lanes(n, [&](int64_t i, int k) { return load(x + i, k); }) * inv;
  const Vec m = broadcast(mean);
  const float square = sum_lanes(n, [&](int64_t i, int k) {
    const Vec d = k == Vec::lanes ? load(x + i) - m : keep(load(x + i, k) - m, k);
    return d * d;
  });
  return {mean, 1.0f / __builtin_sqrtf(square * inv + eps)};
}

template <class T>
const T* row(const RowView& v, int64_t b, int64_t t) {
  return static_cast<const T*>(v.data) + b * v.batch_stride + t * v.time_stride;
}
template <class T>
T* row(const RowOutput& v, int64_t b, int64_t t) {
  return static_cast<T*>(v.data) + b * v.batch_stride + t * v.time_stride;
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

template <class T>
void modulate_row(const T* x, const Modulation<T>& m, T* y, const AdalnModulateArgs& a, bool past_cache) {
  const int64_t C = a.channels;
  const Statistics s = statistics(x, C, a.eps, a.norm);
  const Vec mean = broadcast(s.mean), rstd = broadcast(s.rstd), one = broadcast(1.0f);
  if (m.shift && m.scale && !m.weight && !m.bias) {  // what a DiT block asks for: no branch in the loop
    const auto value = [&](int64_t i) {
      return fma((load(x + i) - mean) * rstd, one + load(m.scale + i), load(m.shift + i));
    };
    const auto tail = [&](int64_t i, int k) {
      store(y + i, fma((load(x + i, k) - mean) * rstd, one + load(m.scale + i, k), load(m.shift + i, k)), k);
    };
    if (past_cache)
      for_lanes(C, [&](int64_t i) { stream(y + i, value(i)); }, tail);
    else
      for_lanes(C, [&](int64_t i) { store(y + i, value(i)); }, tail);
    return;
  }
  const auto value = [&](int64_t i, int k) {
    Vec v = m.affine((load(x + i, k) - mean) * rstd, i, k);
    if (m.scale) v = v * m.gain(i, k);
    return m.shift ? v + load(m.shift + i, k) : v;
  };
  const auto tail = [&](int64_t i, int k) { store(y + i, value(i, k), k); };
  if (past_cache)
    for_lanes(C, [&](int64_t i) { stream(y + i, value(i, Vec::lanes)); }, tail);
  else
    for_lanes(C, [&](int64_t i) { store(y + i, value(i, Vec::lanes)); }, tail);
}

template <class T>
void forward(const AdalnModulateArgs& a) {
  const int64_t rows = a.batch * a.time, C = a.channels;
  const int64_t row_bytes = C * static_cast<int64_t>(sizeof(T));
  // Streaming stores need every vector of y aligned to its own size.
  constexpr uintptr_t align = sizeof(T) * Vec::lanes;
  const bool aligned = reinterpret_cast<uintptr_t>(a.y.data) % align == 0 &&
                       a.y.batch_stride * sizeof(T) % align == 0 && a.y.time_stride * sizeof(T) % align == 0;
  const bool past_cache = Vec::lanes > 1 && aligned && rows * row_bytes > kStreamBytes;
  parallel_for(rows, kGrainElements / (C + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / a.time, t = r % a.time;
      modulate_row(row<T>(a.x, b, t), Modulation<T>(a, b, t), row<T>(a.y, b, t), a, past_cache);
    }
    if (past_cache) stream_fence();
  });
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

// out[c] = sum over rows j of partial[j][c], in the order of j.
template <class T>
void add_rows(const float* partial, int64_t rows, int64_t C, T* out) {
  const auto column = [&](int64_t i, int k) {
    Vec v = zero();
    for (int64_t j = 0; j < rows; ++j) v = v + load(partial + j * C + i, k);
    store(out + i, v, k);
  };
  for_lanes(C, [&](int64_t i) { column(i, Vec::lanes); }, column);
}

template <class T>
void backward(const AdalnModulateBackwardArgs& a) {
  const AdalnModulateArgs& f = a.forward;
  const int64_t C = f.channels, blocks = (f.time + kTimeBlock - 1) / kTimeBlock, plane = f.batch * blocks * C;
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
  switch (a.dtype) {
    case DType::bfloat16: return forward<bfloat16>(a);
    case DType::float16: return forward<float16>(a);
    default: return forward<float>(a);
  }
}

void adaln_modulate_backward(const AdalnModulateBackwardArgs& a) {
  switch (a.forward.dtype) {
    case DType::bfloat16: return backward<bfloat16>(a);
    case DType::float16: return backward<float16>(a);
    default: return backward<float>(a);
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
