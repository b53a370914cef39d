// SPDX-License-Identifier: Apache-2.0
#include "../ops/quantize_rows.h"

#include "parallel.h"
#include "quantize.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Two walks of a row in L1. 1025 rows of 1536, one thread, Zen 4: float32 141 us (a copy of as many bytes 114,
// torch.compile 547), bfloat16 145 (57, 473): the instructions of widening and narrowing, no longer the bytes.
template <class T>
void quantize(const QuantizeRowsArgs& a) {
  const int64_t C = a.channels;
  parallel_for(a.batch * a.time, kGrainElements / (C + 1) + 1, [&](int64_t begin, int64_t end) {
    const PagesAhead<int8_t> pages(a.y, a.batch * a.time, a.time, C, begin, end);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / a.time, t = r % a.time;
      const T* x = row<T>(a.x, b, t);
      int8_t* y = row<int8_t>(a.y, b, t);
      const Int8Scale s(largest_magnitude(x, C));
      *row<float>(a.scale, b, t) = s.scale;
      pages.at(r);
      if (!s.finite) {
        memset(y, 0, static_cast<size_t>(C));
        continue;
      }
      const Vec by = broadcast(s.by);
      for_lanes(
          C, [&](int64_t i) { store(y + i, load(x + i) * by); },
          [&](int64_t i, int k) { store(y + i, load(x + i, k) * by, k); });
    }
  });
}

}  // namespace

void quantize_rows(const QuantizeRowsArgs& a) {
  with_type(a.dtype, [&](auto t) { quantize<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
