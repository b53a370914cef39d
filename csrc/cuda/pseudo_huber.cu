// SPDX-License-Identifier: Apache-2.0
#include "pseudo_huber.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {PSEUDO_HUBER_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void pseudo_huber(const PseudoHuberArgs& a, Stream stream) {
  const DeviceOf device("pseudo_huber", a.loss);
  run("pseudo_huber", plan(a), kernels, parameters(a), stream);
}

void pseudo_huber_backward(const PseudoHuberBackwardArgs& a, Stream stream) {
  const DeviceOf device("pseudo_huber_backward", a.loss);
  run("pseudo_huber_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
