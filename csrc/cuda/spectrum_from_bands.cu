// SPDX-License-Identifier: Apache-2.0
#include "spectrum_from_bands.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {SPECTRUM_FROM_BANDS_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void spectrum_from_bands(const SpectrumFromBandsArgs& a, Stream stream) {
  const DeviceOf device("spectrum_from_bands", a.y);
  run("spectrum_from_bands", plan(a), kernels, parameters(a), stream);
}

void spectrum_from_bands_backward(const SpectrumFromBandsBackwardArgs& a, Stream stream) {
  const DeviceOf device("spectrum_from_bands_backward", a.dy);
  run("spectrum_from_bands_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
