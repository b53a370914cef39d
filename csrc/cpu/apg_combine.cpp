// SPDX-License-Identifier: Apache-2.0
#include "../ops/apg_combine.h"

#include "sample_sums.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// c and d = c - u + momentum average of sample b.
template <class T>
class Difference {
 public:
  template <class Args>
  Difference(const Args& a, int64_t b)
      : c_(sample<T>(a.conditional, b)),
        u_(sample<T>(a.unconditional, b)),
        average_(a.average.data ? sample<T>(a.average, b) : nullptr),
        momentum_(broadcast(a.weights.momentum)) {}

  Vec conditional(int64_t i, int k) const { return load(c_ + i, k); }
  Vec at(Vec c, int64_t i, int k) const {
    const Vec d = c - load(u_ + i, k);
    return average_ ? fma(momentum_, load(average_ + i, k), d) : d;
  }

 private:
  const T *c_, *u_, *average_;
  Vec momentum_;
};

// (w - 1) s, and whether s < 1.
struct Step {
  double weight;
  bool shortened;

  Step(const ApgWeights& w, double square) {
    const double norm = __builtin_sqrt(square);
    shortened = w.threshold > 0 && norm > static_cast<double>(w.threshold);
    weight = static_cast<double>(w.guidance) * (shortened ? static_cast<double>(w.threshold) / norm : 1.0);
  }
};

inline double least_square(double q) {
  return q < static_cast<double>(kLeastSquare) ? static_cast<double>(kLeastSquare) : q;
}

inline Vec number(double x) { return broadcast(static_cast<float>(x)); }

template <class T>
void forward(const ApgCombineArgs& a) {
  block_sums<3>(a.partial, a.batch, a.size, [&](int64_t b, int64_t i, int k, Vec* terms) {
    const Difference<T> difference(a, b);
    const Vec c = difference.conditional(i, k), d = difference.at(c, i, k);
    terms[0] = d * d;
    terms[1] = d * c;
    terms[2] = c * c;
  });
  const bool past = past_cache<T>(a.y, a.batch, a.size) && (!a.next.data || past_cache<T>(a.next, a.batch, a.size));
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    double sums[3];
    add_blocks(a.partial, b, a.size, sums);
    const Step step(a.weights, sums[0]);
    const Vec by_d = number(step.weight);
    const Vec by_c = number(step.weight * static_cast<double>(a.weights.eta) * (sums[1] / least_square(sums[2])));
    const Difference<T> difference(a, b);
    T* y = sample<T>(a.y, b);
    T* next = a.next.data ? sample<T>(a.next, b) : nullptr;
    const auto lanes = [&](int64_t i, int k, const auto& write) {
      const Vec c = difference.conditional(i, k), d = difference.at(c, i, k);
      write(y + i, fma(by_c, c, fma(by_d, d, c)));
      if (next) write(next + i, d);
    };
    for_lanes(
        end - begin, [&](int64_t i) { lanes(begin + i, Vec::lanes, [&](T* p, Vec v) { put(p, v, past); }); },
        [&](int64_t i, int k) { lanes(begin + i, k, [&](T* p, Vec v) { store(p, v, k); }); });
    if (past) stream_fence();
  });
}

template <class T>
void backward(const ApgCombineBackwardArgs& a) {
  block_sums<5>(a.partial, a.batch, a.size, [&](int64_t b, int64_t i, int k, Vec* terms) {
    const Difference<T> difference(a, b);
    const Vec c = difference.conditional(i, k), d = difference.at(c, i, k), g = load(sample<T>(a.dy, b) + i, k);
    terms[0] = d * d;
    terms[1] = d * c;
    terms[2] = c * c;
    terms[3] = g * c;
    terms[4] = g * d;
  });
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    double sums[5];
    add_blocks(a.partial, b, a.size, sums);
    const Step step(a.weights, sums[0]);
    const double m = step.weight, e = static_cast<double>(a.weights.eta), q = least_square(sums[2]),
                 share = sums[1] / q, pull = m * e * sums[3] / q;
    const Vec d_g = number(m), d_c = number(pull),
              d_d = number(step.shortened ? -m * (sums[4] + e * share * sums[3]) / sums[0] : 0.0),
              c_g = number(1.0 + m * e * share), c_d = number(pull),
              c_c = number(sums[2] < static_cast<double>(kLeastSquare) ? 0.0 : -2.0 * share * pull);
    const Vec momentum = broadcast(a.weights.momentum);
    const Difference<T> difference(a, b);
    const T* dy = sample<T>(a.dy, b);
    const T* dnext = a.dnext.data ? sample<T>(a.dnext, b) : nullptr;
    const auto output = [&](const SamplesOut& v) { return v.data ? sample<T>(v, b) : nullptr; };
    T *dc = output(a.dconditional), *du = output(a.dunconditional), *daverage = output(a.daverage);
    const auto lanes = [&](int64_t i, int k) {
      const Vec c = difference.conditional(i, k), d = difference.at(c, i, k), g = load(dy + i, k);
      Vec dd = fma(d_d, d, fma(d_c, c, d_g * g));
      if (dnext) dd = dd + load(dnext + i, k);
      if (dc) store(dc + i, fma(c_c, c, fma(c_d, d, fma(c_g, g, dd))), k);
      if (du) store(du + i, zero() - dd, k);
      if (daverage) store(daverage + i, momentum * dd, k);
    };
    for_lanes(
        end - begin, [&](int64_t i) { lanes(begin + i, Vec::lanes); }, [&](int64_t i, int k) { lanes(begin + i, k); });
  });
}

}  // namespace

void apg_combine(const ApgCombineArgs& a) {
  with_type(a.dtype, [&](auto type) { forward<decltype(type)>(a); });
}

void apg_combine_backward(const ApgCombineBackwardArgs& a) {
  with_type(a.dtype, [&](auto type) { backward<decltype(type)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
