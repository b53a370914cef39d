// SPDX-License-Identifier: Apache-2.0
// Format and arithmetic: philox.h. One thread makes the four numbers of one Philox counter.
#pragma once
#include "../ops/philox_normal.h"
#include "../philox.h"
#include "launch.h"
#include "vec.cuh"

namespace prestissimo::cuda {

constexpr int kPhiloxThreads = 256;

inline int64_t philox_chunks(int64_t size) { return ceil_div(ceil_div(size, 4), kPhiloxThreads); }

inline LaunchPlan plan(const PhiloxNormalArgs& a) {
  LaunchPlan p;
  const bool vectors = a.size % 4 == 0 && aligned_16(a.out);
  p.add("philox_normal", vectors ? 0 : 1, a.batch * philox_chunks(a.size), kPhiloxThreads);
  return p;
}

inline const PhiloxNormalArgs& parameters(const PhiloxNormalArgs& a) { return a; }

// V is 4 where every item is a whole number of aligned vectors, else 1.
template <int V>
PRESTISSIMO_DEVICE void philox_normal_body(const PhiloxNormalArgs& a) {
  const int64_t counters = (a.size + 3) / 4, chunks = (counters + kPhiloxThreads - 1) / kPhiloxThreads;
  const int64_t b = blockIdx.x / chunks, n = blockIdx.x % chunks * kPhiloxThreads + threadIdx.x;
  if (n >= counters) return;
  const uint64_t seed = static_cast<uint64_t>(a.seeds[b]), counter = static_cast<uint64_t>(n);
  const philox::Words w = philox::philox4x32_10({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                                                 static_cast<uint32_t>(a.items[b]), a.stream},
                                                static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const philox::Normals p = philox::box_muller(w.w0, w.w1), q = philox::box_muller(w.w2, w.w3);
  const float z[4] = {p.z0, p.z1, q.z0, q.z1};
  float* out = a.out + b * a.size + 4 * n;
  if constexpr (V == 4) {
    store_global(out, z);
  } else {
    const int64_t left = a.size - 4 * n;
    store_tail(out, z, left < 4 ? static_cast<int>(left) : 4);
  }
}

extern "C" __global__ void __launch_bounds__(kPhiloxThreads)
    philox_normal_x4(const __grid_constant__ PhiloxNormalArgs a) {
  philox_normal_body<4>(a);
}
extern "C" __global__ void __launch_bounds__(kPhiloxThreads)
    philox_normal_x1(const __grid_constant__ PhiloxNormalArgs a) {
  philox_normal_body<1>(a);
}

#define PHILOX_NORMAL_KERNELS(X) X(philox_normal_x4) X(philox_normal_x1)
#define PHILOX_NORMAL_PLANS(X) X(philox_normal, PhiloxNormalArgs)

}  // namespace prestissimo::cuda
