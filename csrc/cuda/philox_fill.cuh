// SPDX-License-Identifier: Apache-2.0
// One thread makes the four numbers of one Philox counter; what four words become is the caller's. Format: philox.h.
#pragma once
#include "../philox.h"
#include "launch.h"
#include "vec.cuh"

namespace prestissimo::cuda {

constexpr int kPhiloxThreads = 256;

inline int64_t philox_chunks(int64_t size) { return ceil_div(ceil_div(size, 4), kPhiloxThreads); }

// Kernel 0 where every item is a whole number of aligned vectors, else kernel 1.
template <class Args>
LaunchPlan philox_plan(const char* op, const Args& a) {
  LaunchPlan p;
  const bool vectors = a.size % 4 == 0 && aligned_16(a.out);
  p.add(op, vectors ? 0 : 1, a.batch * philox_chunks(a.size), kPhiloxThreads);
  return p;
}

// four_of(words, z) fills z[4]; V is 4 in kernel 0 and 1 in kernel 1.
template <int V, class Args, class FourOf>
PRESTISSIMO_DEVICE void philox_fill(const Args& a, FourOf four_of) {
  const int64_t counters = (a.size + 3) / 4, chunks = (counters + kPhiloxThreads - 1) / kPhiloxThreads;
  const int64_t b = blockIdx.x / chunks, n = blockIdx.x % chunks * kPhiloxThreads + threadIdx.x;
  if (n >= counters) return;
  const uint64_t seed = static_cast<uint64_t>(a.seeds[b]), counter = static_cast<uint64_t>(n);
  const philox::Words w = philox::philox4x32_10({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                                                 static_cast<uint32_t>(a.items[b]), a.stream},
                                                static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  float z[4];
  four_of(w, z);
  float* out = a.out + b * a.size + 4 * n;
  if constexpr (V == 4) {
    store_global(out, z);
  } else {
    const int64_t left = a.size - 4 * n;
    store_tail(out, z, left < 4 ? static_cast<int>(left) : 4);
  }
}

}  // namespace prestissimo::cuda
