// SPDX-License-Identifier: Apache-2.0
#include "adaln_modulate.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {ADALN_MODULATE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void adaln_modulate(const AdalnModulateArgs& a, Stream stream) {
  const DeviceOf device("adaln_modulate", a.x.data);
  run("adaln_modulate", plan(a), kernels, parameters(a), stream);
}

void adaln_modulate_backward(const AdalnModulateBackwardArgs& a, Stream stream) {
  const DeviceOf device("adaln_modulate_backward", a.forward.x.data);
  run("adaln_modulate_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
