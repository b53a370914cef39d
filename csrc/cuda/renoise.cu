// SPDX-License-Identifier: Apache-2.0
#include "renoise.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {RENOISE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void renoise(const RenoiseArgs& a, Stream stream) {
  const DeviceOf device("renoise", a.x.data);
  run("renoise", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
