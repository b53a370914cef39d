// SPDX-License-Identifier: Apache-2.0
#include "../ops/dmd_gradient.h"

#include "sample_sums.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

float largest(float) { return 3.4028234663852886e38f; }
float largest(bfloat16) { return 3.3895313892515355e38f; }
float largest(float16) { return 65504.0f; }

template <class T>
void run(const DmdGradientArgs& a) {
  block_sums<1>(a.partial, a.batch, a.size, [&](int64_t b, int64_t i, int k, Vec* terms) {
    terms[0] = magnitude(load(sample<T>(a.x, b) + i, k) - load(sample<T>(a.real, b) + i, k));
  });
  const bool past = past_cache<T>(a.y, a.batch, a.size);
  // rounding to T would turn what lies beyond its largest number into infinity again
  const Vec most = broadcast(largest(T{})), least = broadcast(-largest(T{}));
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    double sums[1];
    add_blocks(a.partial, b, a.size, sums);
    const Vec mean = broadcast(static_cast<float>(sums[0] / static_cast<double>(a.size)) + a.eps);
    const T *fake = sample<T>(a.fake, b) + begin, *real = sample<T>(a.real, b) + begin;
    T* y = sample<T>(a.y, b) + begin;
    const auto value = [&](int64_t i, int k) {
      const Vec v = (load(fake + i, k) - load(real + i, k)) / mean;
      return select(equal(v, v), max(min(v, most), least), zero());
    };
    for_lanes(
        end - begin, [&](int64_t i) { put(y + i, value(i, Vec::lanes), past); },
        [&](int64_t i, int k) { store(y + i, value(i, k), k); });
    if (past) stream_fence();
  });
}

}  // namespace

void dmd_gradient(const DmdGradientArgs& a) {
  with_type(a.dtype, [&](auto type) { run<decltype(type)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
