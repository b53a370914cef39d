// SPDX-License-Identifier: Apache-2.0
// Format and arithmetic: philox.h.
#pragma once
#include "../ops/philox_gumbel.h"
#include "philox_fill.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const PhiloxGumbelArgs& a) { return philox_plan("philox_gumbel", a); }

inline const PhiloxGumbelArgs& parameters(const PhiloxGumbelArgs& a) { return a; }

struct FourGumbels {
  PRESTISSIMO_DEVICE void operator()(const philox::Words& w, float (&z)[4]) const {
    z[0] = philox::gumbel(w.w0);
    z[1] = philox::gumbel(w.w1);
    z[2] = philox::gumbel(w.w2);
    z[3] = philox::gumbel(w.w3);
  }
};

extern "C" __global__ void __launch_bounds__(kPhiloxThreads)
    philox_gumbel_x4(const __grid_constant__ PhiloxGumbelArgs a) {
  philox_fill<4>(a, FourGumbels{});
}
extern "C" __global__ void __launch_bounds__(kPhiloxThreads)
    philox_gumbel_x1(const __grid_constant__ PhiloxGumbelArgs a) {
  philox_fill<1>(a, FourGumbels{});
}

#define PHILOX_GUMBEL_KERNELS(X) X(philox_gumbel_x4) X(philox_gumbel_x1)
#define PHILOX_GUMBEL_PLANS(X) X(philox_gumbel, PhiloxGumbelArgs)

}  // namespace prestissimo::cuda
