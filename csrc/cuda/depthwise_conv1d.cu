// SPDX-License-Identifier: Apache-2.0
#include "depthwise_conv1d.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {DEPTHWISE_CONV1D_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void depthwise_conv1d(const DepthwiseConv1dArgs& a, Stream stream) {
  const DeviceOf device("depthwise_conv1d", a.in.data);
  run("depthwise_conv1d", plan(a), kernels, parameters(a), stream);
}

void depthwise_conv1d_weight(const DepthwiseConv1dWeightArgs& a, Stream stream) {
  const DeviceOf device("depthwise_conv1d_backward", a.dy.data);
  run("depthwise_conv1d_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
