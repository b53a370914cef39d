// SPDX-License-Identifier: Apache-2.0
// Splits [0, n) over OpenMP threads. A kernel's result must not depend on the split: reductions that cross it use
// blocks of a fixed size (design: same bits for 1 or 16 threads).
#pragma once
#include <cstdint>

namespace prestissimo::cpu {

// Calls body(context, begin, end) on disjoint ranges that cover [0, n); fewer threads where n < 2 * grain.
void parallel_ranges(int64_t n, int64_t grain, void (*body)(const void*, int64_t, int64_t), const void* context);
int max_threads();
[[noreturn]] void out_of_memory();  // throws std::bad_alloc, for kernels, which use nothing of std

#ifdef PRESTISSIMO_ISA
namespace PRESTISSIMO_ISA {

template <class Body>
void parallel_for(int64_t n, int64_t grain, const Body& body) {
  parallel_ranges(n, grain, [](const void* c, int64_t b, int64_t e) { (*static_cast<const Body*>(c))(b, e); }, &body);
}

}  // namespace PRESTISSIMO_ISA
#endif

}  // namespace prestissimo::cpu
