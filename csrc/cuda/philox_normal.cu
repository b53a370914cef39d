// SPDX-License-Identifier: Apache-2.0
#include "philox_normal.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {PHILOX_NORMAL_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void philox_normal(const PhiloxNormalArgs& a, Stream stream) {
  const DeviceOf device("philox_normal", a.out);
  run("philox_normal", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
