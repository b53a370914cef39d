// SPDX-License-Identifier: Apache-2.0
#include "gated_residual_adaln.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {GATED_RESIDUAL_ADALN_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void gated_residual_adaln(const GatedResidualAdalnArgs& a, Stream stream) {
  const DeviceOf device("gated_residual_adaln", a.x.data);
  run("gated_residual_adaln", plan(a), kernels, parameters(a), stream);
}

void gated_residual_adaln_backward(const GatedResidualAdalnBackwardArgs& a, Stream stream) {
  const DeviceOf device("gated_residual_adaln_backward", a.adaln.forward.x.data);
  run("gated_residual_adaln_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
