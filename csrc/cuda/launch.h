// SPDX-License-Identifier: Apache-2.0
// A launch plan is a pure function of an op's Args: which kernels, how many blocks, how large; `parameters(args)` is
// what every kernel of the plan then gets. The launcher runs it on a stream; the tests run the very same plan in both
// lanes. Everything above the __CUDACC__ line is plain C++.
#pragma once
#include <cstdint>
#include <string>

#include "../array.h"
#include "../device.h"

namespace prestissimo::cuda {

constexpr int kWarpSize = 32;

struct Launch {
  int kernel;  // position in the op's list of kernels
  uint32_t grid, block, shared_bytes;
};

struct LaunchPlan {
  static constexpr int kMost = 4;
  Launch launches[kMost];
  int count = 0;

  // An empty grid is no launch. One dimension only: block indices are decoded from blockIdx.x.
  void add(const char* op, int kernel, int64_t grid, uint32_t block, uint32_t shared_bytes = 0) {
    if (grid == 0) return;
    if (grid > INT32_MAX) fail(op, "needs " + std::to_string(grid) + " blocks, more than a CUDA grid has");
    launches[count++] = {kernel, static_cast<uint32_t>(grid), block, shared_bytes};
  }
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool aligned_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace prestissimo::cuda

#if defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include <stdexcept>

namespace prestissimo::cuda {

inline void check(const char* op, cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(op) + ": " + cudaGetErrorString(error));
}

// The device that owns `pointer` for as long as this lives.
class DeviceOf {
 public:
  DeviceOf(const char* op, const void* pointer) {
    cudaPointerAttributes attributes;
    check(op, cudaPointerGetAttributes(&attributes, pointer));
    check(op, cudaGetDevice(&previous_));
    if (attributes.device != previous_) check(op, cudaSetDevice(attributes.device));
  }
  ~DeviceOf() { cudaSetDevice(previous_); }
  DeviceOf(const DeviceOf&) = delete;
  DeviceOf& operator=(const DeviceOf&) = delete;

 private:
  int previous_ = 0;
};

template <class Parameters>
void run(const char* op, const LaunchPlan& plan, const void* const* kernels, const Parameters& by_value,
         Stream stream) {
  for (int i = 0; i < plan.count; ++i) {
    const Launch& l = plan.launches[i];
    void* parameters[] = {const_cast<Parameters*>(&by_value)};
    check(op, cudaLaunchKernel(kernels[l.kernel], dim3(l.grid), dim3(l.block), parameters, l.shared_bytes,
                               static_cast<cudaStream_t>(stream.handle)));
  }
}

}  // namespace prestissimo::cuda
#endif
