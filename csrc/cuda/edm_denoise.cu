// SPDX-License-Identifier: Apache-2.0
#include "edm_denoise.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {EDM_DENOISE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void edm_denoise(const EdmDenoiseArgs& a, Stream stream) {
  const DeviceOf device("edm_denoise", a.blend.x.data);
  run("edm_denoise", plan(a), kernels, parameters(a), stream);
}

void edm_denoise_backward(const EdmDenoiseBackwardArgs& a, Stream stream) {
  const DeviceOf device("edm_denoise_backward", a.blend.dy.data);
  run("edm_denoise_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
