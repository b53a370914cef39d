// SPDX-License-Identifier: Apache-2.0
#include "math.h"
#include "parallel.h"
#include "qk_norm_rope_rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// du = dy rotated back, into u; v is scratch.
template <class T>
void rotate_back(const QkNormRopeArgs& a, const T* dy, float* u, float* v, int64_t t) {
  const int64_t half = a.half;
  for_lanes(
      a.dim, [&](int64_t i) { store(u + i, load(dy + i)); },
      [&](int64_t i, int k) { store(u + i, load(dy + i, k), k); });
  if (half == 0) return;
  const float *cos = a.cos + t * half, *sin = a.sin + t * half;
  float* from = u;
  if (a.pairing == Pairing::interleaved) gather_pairs(u, v, half), from = v;
  const auto pair = [&](int64_t i, int k) {
    const Vec c = load(cos + i, k), s = load(sin + i, k), x = load(from + i, k), y = load(from + half + i, k);
    store(from + i, fma(x, c, y * s), k);
    store(from + half + i, y * c - x * s, k);
  };
  for_lanes(half, [&](int64_t i) { pair(i, Vec::lanes); }, pair);
  if (from == v) scatter_pairs(v, u, half);
}

struct HeadAccumulators {
  float *weight, *bias, *alpha;  // [D] of `partial` each, or null

  void add(float* sum, Vec v, int64_t i, int k) const {
    if (sum) store(sum + i, load(sum + i, k) + v, k);
  }
};

// dx of one row from du, and its share of the sums.
template <class T>
void backward_row(const QkNormRopeArgs& a, const T* x, const float* du, const Affine& by, const HeadAccumulators& sums,
                  T* dx) {
  const int64_t D = a.dim;
  const Vec alpha = broadcast(by.alpha);
  if (a.norm == HeadNorm::dyt || a.norm == HeadNorm::none) {
    const bool dyt = a.norm == HeadNorm::dyt;
    const auto lanes = [&](int64_t i, int k) {
      const Vec v = load(x + i, k), d = load(du + i, k);
      if (!dyt) return store(dx + i, d, k);
      const Vec n = tanh(alpha * v), slope = broadcast(4.0f) * sigmoid_and_slope(broadcast(2.0f) * alpha * v).slope;
      const Vec g = d * load(by.weight + i, k) * slope;  // 1 - n^2 would cancel, and v may be large there
      store(dx + i, alpha * g, k);
      sums.add(sums.weight, d * n, i, k);
      sums.add(sums.bias, d, i, k);
      sums.add(sums.alpha, g * v, i, k);
    };
    for_lanes(D, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
    return;
  }
  const HeadStatistics s = statistics(x, a);
  const Vec mean = broadcast(s.mean), rstd = broadcast(s.rstd);
  const auto normalised = [&](int64_t i, int k) { return keep((load(x + i, k) - mean) * rstd, k); };
  Vec sum_g = zero(), sum_gn = zero();
  const auto reduce = [&](int64_t i, int k) {
    const Vec d = load(du + i, k), n = normalised(i, k), g = d * load(by.weight + i, k);
    sum_g = sum_g + g;
    sum_gn = fma(g, n, sum_gn);
    sums.add(sums.weight, d * n, i, k);
    sums.add(sums.bias, d, i, k);
  };
  for_lanes(D, [&](int64_t i) { reduce(i, Vec::lanes); }, reduce);
  const float inverse = 1.0f / static_cast<float>(D);
  const Vec mean_g = broadcast(a.norm == HeadNorm::layer ? sum(sum_g) * inverse : 0.0f);
  const Vec mean_gn = broadcast(sum(sum_gn) * inverse);
  const auto gradient = [&](int64_t i, int k) {
    const Vec g = load(du + i, k) * load(by.weight + i, k);
    store(dx + i, rstd * (g - mean_g - normalised(i, k) * mean_gn), k);
  };
  for_lanes(D, [&](int64_t i) { gradient(i, Vec::lanes); }, gradient);
}

// The gradients of q's or k's vectors from their rows of sums.
inline void add_sums(const QkNormRopeArgs& a, const Heads& h, const HeadGradients& g, float* total) {
  const HeadSums index = head_sums(g);
  const int64_t rows = head_rows(a, h), plane = rows * a.dim;
  with_type(a.vectors_dtype, [&](auto type) {
    using V = decltype(type);
    if (index.weight >= 0) add_rows(g.partial + index.weight * plane, rows, a.dim, static_cast<V*>(g.dweight));
    if (index.bias >= 0) add_rows(g.partial + index.bias * plane, rows, a.dim, static_cast<V*>(g.dbias));
    if (index.alpha >= 0) {
      add_rows(g.partial + index.alpha * plane, rows, a.dim, total);
      *static_cast<V*>(g.dalpha) = narrow<V>(sum_lanes(a.dim, [&](int64_t i, int k) { return load(total + i, k); }));
    }
  });
}

template <class T>
void backward(const QkNormRopeBackwardArgs& a) {
  const QkNormRopeArgs& f = a.forward;
  const int64_t D = f.dim, blocks = time_blocks(f.time);
  bool failed = false;
  parallel_for(f.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    Scratch<6> scratch(D);
    if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    const Affine of_q = affine_of(f, f.q, scratch.row(0), scratch.row(1));
    const Affine of_k = affine_of(f, f.k, scratch.row(2), scratch.row(3));
    float *u = scratch.row(4), *v = scratch.row(5);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / blocks, first = item % blocks * kTimeBlock;
      const int64_t last = first + kTimeBlock < f.time ? first + kTimeBlock : f.time;
      const auto each = [&](const Heads& h, const HeadGradients& g, const Affine& by) {
        const HeadSums index = head_sums(g);
        const int64_t plane = head_rows(f, h) * D;
        for (int64_t i = 0; i < h.heads; ++i) {
          const auto sum_row = [&](int which) -> float* {
            if (which < 0) return nullptr;
            float* sum = g.partial + which * plane + (item * h.heads + i) * D;
            memset(sum, 0, sizeof(float) * static_cast<size_t>(D));
            return sum;
          };
          const HeadAccumulators sums{sum_row(index.weight), sum_row(index.bias), sum_row(index.alpha)};
          for (int64_t t = first; t < last; ++t) {
            rotate_back(f, row<T>(g.dy, b, t, i), u, v, t);
            backward_row(f, row<T>(h.x, b, t, i), u, by, sums, row<T>(g.dx, b, t, i));
          }
        }
      };
      each(f.q, a.q, of_q);
      each(f.k, a.k, of_k);
    }
  });
  Scratch<1> scratch(D);
  if (failed || !scratch.ready()) out_of_memory();
  add_sums(f, f.q, a.q, scratch.row(0));
  add_sums(f, f.k, a.k, scratch.row(0));
}

}  // namespace

void qk_norm_rope_backward(const QkNormRopeBackwardArgs& a) {
  with_type(a.forward.dtype, [&](auto t) { backward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
