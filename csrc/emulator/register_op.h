// SPDX-License-Identifier: Apache-2.0
// Makes the kernels and launch plans of one op known to the worker: EMULATED_OP(<OP>_KERNELS, <OP>_PLANS) in namespace
// prestissimo::cuda, after the op's .cuh.
#pragma once
#include "../cuda/launch.h"
#include "registry.h"

namespace emulator {

template <class Parameters>
Planned planned(const prestissimo::cuda::LaunchPlan& launches, const Parameters& by_value, const char* const* names) {
  Planned p;
  for (int i = 0; i < launches.count; ++i) {
    const prestissimo::cuda::Launch& l = launches.launches[i];
    p.launches.push_back({names[l.kernel], l.grid, l.block, l.shared_bytes});
  }
  p.parameters.assign(reinterpret_cast<const char*>(&by_value), sizeof(by_value));
  return p;
}

}  // namespace emulator

#define EMULATED_KERNEL(kernel) emulator::register_kernel(#kernel, kernel),
#define EMULATED_NAME(kernel) #kernel,
#define EMULATED_PLAN(op, Args)  \
  emulator::register_plan<Args>( \
      #op, [](const Args& a) { return emulator::planned(plan(a), parameters(a), emulated_names); }),
#define EMULATED_OP(KERNELS, PLANS)                                                      \
  [[maybe_unused]] static const char* const emulated_names[] = {KERNELS(EMULATED_NAME)}; \
  [[maybe_unused]] static const bool emulated_kernels[] = {KERNELS(EMULATED_KERNEL)};    \
  [[maybe_unused]] static const bool emulated_plans[] = {PLANS(EMULATED_PLAN) true};
