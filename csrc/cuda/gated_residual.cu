// SPDX-License-Identifier: Apache-2.0
#include "gated_residual.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {GATED_RESIDUAL_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void gated_residual(const GatedResidualArgs& a, Stream stream) {
  const DeviceOf device("gated_residual", a.x.data);
  run("gated_residual", plan(a), kernels, parameters(a), stream);
}

void gated_residual_backward(const GatedResidualBackwardArgs& a, Stream stream) {
  const DeviceOf device("gated_residual_backward", a.dy.data);
  run("gated_residual_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
