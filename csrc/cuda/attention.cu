// SPDX-License-Identifier: Apache-2.0
#include "attention.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {ATTENTION_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void attention(const AttentionArgs& a, Stream stream) {
  const DeviceOf device("attention", a.q.data);
  run("attention", plan(a), kernels, parameters(a), stream);
}

void attention_backward(const AttentionBackwardArgs& a, Stream stream) {
  const DeviceOf device("attention_backward", a.forward.q.data);
  run("attention_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
