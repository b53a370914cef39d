// SPDX-License-Identifier: Apache-2.0
#include "sampler_step.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {SAMPLER_STEP_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void sampler_step(const SamplerStepArgs& a, Stream stream) {
  const DeviceOf device("sampler_step", a.y.data);
  run("sampler_step", plan(a), kernels, parameters(a), stream);
}

void sampler_step_backward(const SamplerStepBackwardArgs& a, Stream stream) {
  const DeviceOf device("sampler_step_backward", a.dy.data);
  run("sampler_step_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
