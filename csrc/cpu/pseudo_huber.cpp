// SPDX-License-Identifier: Apache-2.0
#include "../ops/pseudo_huber.h"

#include "sample_sums.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

template <class T>
void forward(const PseudoHuberArgs& a) {
  block_sums<1>(a.partial, a.batch, a.size, [&](int64_t b, int64_t i, int k, Vec* terms) {
    const Vec d = load(sample<T>(a.x, b) + i, k) - load(sample<T>(a.y, b) + i, k);
    terms[0] = d * d;
  });
  for (int64_t b = 0; b < a.batch; ++b) {
    double squares[1];
    add_blocks(a.partial, b, a.size, squares);
    const double root = __builtin_sqrt(squares[0] + a.c * a.c);
    // infinite differences make an infinite loss, not inf / inf
    const bool direct = !(root < 1e300) || root == 0;
    a.loss[b] = static_cast<float>(direct ? root - a.c : squares[0] / (root + a.c));
  }
}

template <class T>
void backward(const PseudoHuberBackwardArgs& a) {
  const bool past =
      (!a.dx.data || past_cache<T>(a.dx, a.batch, a.size)) && (!a.dy.data || past_cache<T>(a.dy, a.batch, a.size));
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    const Vec factor =
        broadcast(static_cast<float>(static_cast<double>(a.dloss[b]) / (static_cast<double>(a.loss[b]) + a.c)));
    const T *x = sample<T>(a.x, b) + begin, *y = sample<T>(a.y, b) + begin;
    T* dx = a.dx.data ? sample<T>(a.dx, b) + begin : nullptr;
    T* dy = a.dy.data ? sample<T>(a.dy, b) + begin : nullptr;
    const auto lanes = [&](int64_t i, int k, const auto& write) {
      const Vec g = factor * (load(x + i, k) - load(y + i, k));
      if (dx) write(dx + i, g);
      if (dy) write(dy + i, zero() - g);
    };
    for_lanes(
        end - begin, [&](int64_t i) { lanes(i, Vec::lanes, [&](T* p, Vec v) { put(p, v, past); }); },
        [&](int64_t i, int k) { lanes(i, k, [&](T* p, Vec v) { store(p, v, k); }); });
    if (past) stream_fence();
  });
}

}  // namespace

void pseudo_huber(const PseudoHuberArgs& a) {
  with_type(a.dtype, [&](auto type) { forward<decltype(type)>(a); });
}

void pseudo_huber_backward(const PseudoHuberBackwardArgs& a) {
  with_type(a.dtype, [&](auto type) { backward<decltype(type)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
