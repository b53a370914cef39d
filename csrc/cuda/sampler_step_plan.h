// SPDX-License-Identifier: Apache-2.0
// Which kernels of sampler_step.cuh run for given Args. Plain C++.
#pragma once
#include "../ops/sampler_step.h"
#include "samples.h"

namespace prestissimo::cuda {

// In the order of SAMPLER_STEP_KERNELS: flat passes by flat_kernel(), then kernels for each dtype.
enum SamplerStepKernel : int {
  kStepFlat = 0,
  kStepBackwardFlat = 6,
  kStepNoise = 12,
  kStepColumns = 15,
  kStepBackwardColumns = 18
};

// Rescaled guidance: a block takes 32 frames of one sample; the threads of a frame share its channels, four at a time.
constexpr int kColumnGroups = 8;
constexpr int kColumnThreads = kWarpSize * kColumnGroups;

inline LaunchPlan plan(const SamplerStepArgs& a) {
  const char* op = "sampler_step";
  LaunchPlan p;
  if (a.rescaled()) {
    p.add(op, kStepColumns + type_index(a.dtype), a.batch * ceil_div(a.frames, kWarpSize), kColumnThreads);
  } else if (a.noise.seeds) {
    p.add(op, kStepNoise + type_index(a.dtype), noise_blocks(a.batch, a.channels, a.frames), kNoiseThreads);
  } else {
    const int64_t size = a.channels * a.frames;
    const bool vectors =
        vectorised_samples(a.dtype, size, a.x, a.conditional, a.unconditional, a.previous, a.y, a.denoised);
    p.add(op, kStepFlat + flat_kernel(a.dtype, vectors), a.batch * flat_blocks(a.dtype, vectors, size), kFlatThreads);
  }
  return p;
}

inline LaunchPlan plan(const SamplerStepBackwardArgs& a) {
  const char* op = "sampler_step_backward";
  LaunchPlan p;
  if (a.rescaled()) {
    p.add(op, kStepBackwardColumns + type_index(a.dtype), a.batch * ceil_div(a.frames, kWarpSize), kColumnThreads);
  } else {
    const int64_t size = a.channels * a.frames;
    const bool vectors =
        vectorised_samples(a.dtype, size, a.dy, a.ddenoised, a.dx, a.dconditional, a.dunconditional, a.dprevious);
    p.add(op, kStepBackwardFlat + flat_kernel(a.dtype, vectors), a.batch * flat_blocks(a.dtype, vectors, size),
          kFlatThreads);
  }
  return p;
}

inline const SamplerStepArgs& parameters(const SamplerStepArgs& a) { return a; }
inline const SamplerStepBackwardArgs& parameters(const SamplerStepBackwardArgs& a) { return a; }

}  // namespace prestissimo::cuda
