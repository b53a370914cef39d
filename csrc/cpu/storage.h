// SPDX-License-Identifier: Apache-2.0
// Storage types of elementwise kernels, and when their results go past the caches.
#pragma once
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// Outputs larger than this go past the caches: a normal store first reads the line it is about to overwrite, a third of
// all traffic (two thirds of a copy's speed instead of all of it, measured on Zen 4 at 25 MB and above).
constexpr int64_t kStreamBytes = 12 << 20;

// Calls f(T{}) for the storage type of a dtype, f(T{}, B{}) for those of a residual stream and its branches.
template <class F>
void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::bfloat16: return f(bfloat16{});
    case DType::float16: return f(float16{});
    default: return f(float{});
  }
}
template <class F>
void with_types(DType dtype, DType branch, const F& f) {
  switch (dtype) {
    case DType::bfloat16: return f(bfloat16{}, bfloat16{});
    case DType::float16: return f(float16{}, float16{});
    default: return with_type(branch, [&](auto b) { f(float{}, b); });
  }
}

// Vector j of a block of a branch of B beside a stream of T: in the order of T's blocks.
template <class T>
inline Vec load_beside(const T*, const T* branch, int j) {
  return load_of_block(branch, j);
}
template <class T, class B>
inline Vec load_beside(const T*, const B* branch, int j) {
  return load(branch + j * Vec::lanes);
}
}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
