// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "sampler_step_backward.cuh"
#include "sampler_step_forward.cuh"

namespace prestissimo::cuda {

// In the order of SamplerStepKernel.
#define SAMPLER_STEP_KERNELS(X)                    \
  FLAT_TYPES(FLAT_NAME, X, sampler_step)           \
  FLAT_TYPES(FLAT_NAME, X, sampler_step_backward)  \
  FRAME_TYPES(FRAME_NAME, X, sampler_step_noise)   \
  FRAME_TYPES(FRAME_NAME, X, sampler_step_columns) \
  FRAME_TYPES(FRAME_NAME, X, sampler_step_backward_columns)
#define SAMPLER_STEP_PLANS(X) X(sampler_step, SamplerStepArgs) X(sampler_step_backward, SamplerStepBackwardArgs)

}  // namespace prestissimo::cuda
