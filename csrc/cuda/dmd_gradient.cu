// SPDX-License-Identifier: Apache-2.0
#include "dmd_gradient.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {DMD_GRADIENT_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void dmd_gradient(const DmdGradientArgs& a, Stream stream) {
  const DeviceOf device("dmd_gradient", a.x.data);
  run("dmd_gradient", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
