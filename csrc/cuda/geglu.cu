// SPDX-License-Identifier: Apache-2.0
#include "geglu.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {GEGLU_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void geglu(const GatedLinearUnitArgs& a, Stream stream) {
  const DeviceOf device("geglu", a.x.data);
  run("geglu", plan(a), kernels, parameters(a), stream);
}

void geglu_backward(const GatedLinearUnitBackwardArgs& a, Stream stream) {
  const DeviceOf device("geglu_backward", a.x.data);
  run("geglu_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
