// SPDX-License-Identifier: Apache-2.0
// Format and arithmetic: philox.h.
#pragma once
#include "../ops/philox_normal.h"
#include "philox_fill.cuh"

namespace prestissimo::cuda {

inline LaunchPlan plan(const PhiloxNormalArgs& a) { return philox_plan("philox_normal", a); }

inline const PhiloxNormalArgs& parameters(const PhiloxNormalArgs& a) { return a; }

struct FourNormals {
  PRESTISSIMO_DEVICE void operator()(const philox::Words& w, float (&z)[4]) const {
    const philox::Normals p = philox::box_muller(w.w0, w.w1), q = philox::box_muller(w.w2, w.w3);
    z[0] = p.z0;
    z[1] = p.z1;
    z[2] = q.z0;
    z[3] = q.z1;
  }
};

extern "C" __global__ void __launch_bounds__(kPhiloxThreads)
    philox_normal_x4(const __grid_constant__ PhiloxNormalArgs a) {
  philox_fill<4>(a, FourNormals{});
}
extern "C" __global__ void __launch_bounds__(kPhiloxThreads)
    philox_normal_x1(const __grid_constant__ PhiloxNormalArgs a) {
  philox_fill<1>(a, FourNormals{});
}

#define PHILOX_NORMAL_KERNELS(X) X(philox_normal_x4) X(philox_normal_x1)
#define PHILOX_NORMAL_PLANS(X) X(philox_normal, PhiloxNormalArgs)

}  // namespace prestissimo::cuda
