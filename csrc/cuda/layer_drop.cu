// SPDX-License-Identifier: Apache-2.0
#include "layer_drop.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {LAYER_DROP_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void layer_drop(const LayerDropArgs& a, Stream stream) {
  const DeviceOf device("layer_drop", a.hidden[0].data);
  run("layer_drop", plan(a), kernels, parameters(a), stream);
}

void layer_drop_backward(const LayerDropBackwardArgs& a, Stream stream) {
  const DeviceOf device("layer_drop_backward", a.hidden[0].data);
  run("layer_drop_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
