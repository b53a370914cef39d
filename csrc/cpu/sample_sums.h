// SPDX-License-Identifier: Apache-2.0
// The sums of ops/sample_sums.h.
#pragma once
#include "../ops/sample_sums.h"
#include "samples.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

static_assert(kSumBlock == kChunk);

// add(b, i, k, terms) puts N vectors of terms for elements i .. i + k of sample b, zeros beyond; fills `partial` with
// their sums over each block. Eager's own sums lose next to nothing: here a lane adds at most kRun numbers before they
// go on in double.
constexpr int kRun = 32;

template <int N, class Add>
void block_sums(float* partial, int64_t batch, int64_t size, const Add& add) {
  const int64_t blocks = sum_blocks(size);
  for_chunks(batch, size, [&](int64_t b, int64_t begin, int64_t end) {
    constexpr int L = Vec::lanes;
    double total[N] = {};
    for (int64_t i = begin; i < end;) {
      const int64_t stop = i + kRun * L < end ? i + kRun * L : end;
      Vec even[N], odd[N], terms[N];  // one waits less for the other
      for (int n = 0; n < N; ++n) even[n] = odd[n] = zero();
      for (; i + 2 * L <= stop; i += 2 * L) {
        add(b, i, L, terms);
        for (int n = 0; n < N; ++n) even[n] = even[n] + terms[n];
        add(b, i + L, L, terms);
        for (int n = 0; n < N; ++n) odd[n] = odd[n] + terms[n];
      }
      for (; i < stop; i += L) {
        add(b, i, static_cast<int>(stop - i < L ? stop - i : L), terms);
        for (int n = 0; n < N; ++n) even[n] = even[n] + terms[n];
      }
      for (int n = 0; n < N; ++n) total[n] += static_cast<double>(sum(even[n] + odd[n]));
      i = stop;
    }
    float* out = partial + (b * blocks + begin / kSumBlock) * N;
    for (int n = 0; n < N; ++n) out[n] = static_cast<float>(total[n]);
  });
}

// The blocks of sample b, in their order, in double.
template <int N>
void add_blocks(const float* partial, int64_t b, int64_t size, double (&sums)[N]) {
  const int64_t blocks = sum_blocks(size);
  for (int n = 0; n < N; ++n) sums[n] = 0;
  for (int64_t i = 0; i < blocks; ++i)
    for (int n = 0; n < N; ++n) sums[n] += static_cast<double>(partial[(b * blocks + i) * N + n]);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
