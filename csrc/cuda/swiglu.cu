// SPDX-License-Identifier: Apache-2.0
#include "swiglu.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {SWIGLU_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void swiglu(const GatedLinearUnitArgs& a, Stream stream) {
  const DeviceOf device("swiglu", a.x.data);
  run("swiglu", plan(a), kernels, parameters(a), stream);
}

void swiglu_backward(const GatedLinearUnitBackwardArgs& a, Stream stream) {
  const DeviceOf device("swiglu_backward", a.x.data);
  run("swiglu_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
