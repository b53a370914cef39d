// SPDX-License-Identifier: Apache-2.0
#include "qk_norm_rope.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {QK_NORM_ROPE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void qk_norm_rope(const QkNormRopeArgs& a, Stream stream) {
  const DeviceOf device("qk_norm_rope", a.q.x.data);
  run("qk_norm_rope", plan(a), kernels, parameters(a), stream);
}

void qk_norm_rope_backward(const QkNormRopeBackwardArgs& a, Stream stream) {
  const DeviceOf device("qk_norm_rope_backward", a.forward.q.x.data);
  run("qk_norm_rope_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
