// SPDX-License-Identifier: Apache-2.0
#include "../ops/hidden_variance.h"

#include "sample_moments.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

template <class T>
void forward(const HiddenVarianceArgs& a) {
  const int64_t C = a.channels;
  parallel_for(a.batch * a.time, kGrainElements / (C + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row_moments(row<T>(a.x, r / a.time, r % a.time), C, a.partial + 2 * r);
  });
  for (int64_t b = 0; b < a.batch; ++b) {
    const SampleMoments s = sample_moments(a.partial + 2 * b * a.time, a.time, C);
    a.mean[b] = s.mean;
    a.variance[b] = s.variance;
  }
}

template <class T>
void backward(const HiddenVarianceBackwardArgs& a) {
  const int64_t C = a.channels;
  const float n = static_cast<float>(a.time * C);
  parallel_for(a.batch * a.time, kGrainElements / C + 1, [&](int64_t begin, int64_t end) {
    const PagesAhead<T> pages(a.dx, a.batch * a.time, a.time, C, begin, end);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / a.time, t = r % a.time;
      const T* x = row<T>(a.x, b, t);
      T* dx = row<T>(a.dx, b, t);
      const Vec mean = broadcast(a.mean[b]), by = broadcast(2.0f * a.dvariance[b] / n);
      pages.at(r);
      const auto lanes = [&](int64_t i, int k) { store(dx + i, (load(x + i, k) - mean) * by, k); };
      for_lanes(C, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
    }
  });
}

}  // namespace

void hidden_variance(const HiddenVarianceArgs& a) {
  with_type(a.dtype, [&](auto t) { forward<decltype(t)>(a); });
}

void hidden_variance_backward(const HiddenVarianceBackwardArgs& a) {
  with_type(a.dtype, [&](auto t) { backward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
