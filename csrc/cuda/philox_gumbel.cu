// SPDX-License-Identifier: Apache-2.0
#include "philox_gumbel.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {PHILOX_GUMBEL_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void philox_gumbel(const PhiloxGumbelArgs& a, Stream stream) {
  const DeviceOf device("philox_gumbel", a.out);
  run("philox_gumbel", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
