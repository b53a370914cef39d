// SPDX-License-Identifier: Apache-2.0
#include "inverse_stft.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {INVERSE_STFT_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void inverse_stft(const InverseStftArgs& a, Stream stream) {
  const DeviceOf device("inverse_stft", a.log_magnitude.data);
  run("inverse_stft", plan(a), kernels, parameters(a), stream);
}

void inverse_stft_backward(const InverseStftBackwardArgs& a, Stream stream) {
  const DeviceOf device("inverse_stft_backward", a.dsignal);
  run("inverse_stft_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
