// SPDX-License-Identifier: Apache-2.0
#include "snake.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {SNAKE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void snake(const SnakeArgs& a, Stream stream) {
  const DeviceOf device("snake", a.x.data);
  run("snake", plan(a), kernels, parameters(a), stream);
}

void snake_backward(const SnakeBackwardArgs& a, Stream stream) {
  const DeviceOf device("snake_backward", a.x.data);
  run("snake_backward", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
