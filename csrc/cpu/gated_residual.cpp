// SPDX-License-Identifier: Apache-2.0
#include "../ops/gated_residual.h"

#include "gate.h"
#include "parallel.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

template <bool kPastCache, class T, class B>
void residual_row(const T* x, const B* branch, const float* g, T* y, int64_t n) {
  for_blocks(
      n,
      [&](int64_t i) {
        Vec v[4];
        for (int j = 0; j < 4; ++j)
          v[j] = fma(load_beside(x, branch + i, j), load(g + i + j * Vec::lanes), load_of_block(x + i, j));
        put_block<kPastCache>(y + i, v);
      },
      [&](int64_t i, int k) { store(y + i, fma(load(branch + i, k), load(g + i, k), load(x + i, k)), k); });
}

template <class T, class B>
void forward(const GatedResidualArgs& a) {
  const int64_t rows = a.batch * a.time, C = a.channels;
  const bool streamed = past_cache<T>(a.y, rows, C);
  bool failed = false;
  parallel_for(rows, kGrainElements / C + 1, [&](int64_t begin, int64_t end) {
    Scratch<1> scratch(C);
    if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    float* g = scratch.row(0);
    int64_t opened = -1;
    const PagesAhead<T> pages(a.y, rows, a.time, C, begin, end);
    for (int64_t r = begin; r < end; ++r) {
      pages.at(r);
      const int64_t b = r / a.time, t = r % a.time;
      if (b != opened) open_gate(row<T>(a.gate, b, 0), a.form, g, C), opened = b;
      if (streamed)
        residual_row<true>(row<T>(a.x, b, t), row<B>(a.branch, b, t), g, row<T>(a.y, b, t), C);
      else
        residual_row<false>(row<T>(a.x, b, t), row<B>(a.branch, b, t), g, row<T>(a.y, b, t), C);
    }
    if (streamed) stream_fence();
  });
  if (failed) out_of_memory();
}

// `sum` is in the order of T's blocks too, until close_gate.
template <class T, class B>
void backward_row(const T* dy, const B* branch, const float* g, B* dbranch, float* sum, int64_t n) {
  constexpr int L = Vec::lanes;
  for_blocks(
      n,
      [&](int64_t i) {
        Vec d[4];
        for (int j = 0; j < 4; ++j) {
          float* s = sum + i + j * L;
          d[j] = load_of_block(dy + i, j);
          if (sum) store(s, fma(d[j], load_beside(dy, branch + i, j), load(s)));
          d[j] = d[j] * load(g + i + j * L);
        }
        if (dbranch) put_beside<false>(dy, dbranch + i, d);
      },
      [&](int64_t i, int k) {
        const Vec d = load(dy + i, k);
        if (sum) store(sum + i, fma(d, load(branch + i, k), load(sum + i, k)), k);
        if (dbranch) store(dbranch + i, d * load(g + i, k), k);
      });
}

template <class T, class B>
void backward(const GatedResidualBackwardArgs& a) {
  const int64_t C = a.channels, blocks = time_blocks(a.time);
  bool failed = false;
  parallel_for(a.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    Scratch<1> scratch(C);
    if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    float* g = scratch.row(0);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / blocks, first = item % blocks * kTimeBlock;
      const int64_t last = first + kTimeBlock < a.time ? first + kTimeBlock : a.time;
      float* sum = a.dgate.data ? a.partial + item * C : nullptr;
      open_gate(row<T>(a.gate, b, 0), a.form, g, C);
      if (sum) memset(sum, 0, sizeof(float) * static_cast<size_t>(C));
      for (int64_t t = first; t < last; ++t)
        backward_row(row<T>(a.dy, b, t), row<B>(a.branch, b, t), g, a.dbranch.data ? row<B>(a.dbranch, b, t) : nullptr,
                     sum, C);
    }
  });
  if (failed) out_of_memory();
  for (int64_t b = 0; a.dgate.data && b < a.batch; ++b)
    close_gate<true>(a.partial + b * blocks * C, blocks, row<T>(a.gate, b, 0), a.form, row<T>(a.dgate, b, 0), C);
}

}  // namespace

void gated_residual(const GatedResidualArgs& a) {
  with_types(a.dtype, a.branch_dtype, [&](auto t, auto b) { forward<decltype(t), decltype(b)>(a); });
}

void gated_residual_backward(const GatedResidualBackwardArgs& a) {
  with_types(a.dtype, a.branch_dtype, [&](auto t, auto b) { backward<decltype(t), decltype(b)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
