// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "samples.h"
#include "vec.cuh"

namespace prestissimo::cuda {

template <class T>
PRESTISSIMO_DEVICE const T* sample(const Samples& v, int64_t b) {
  return static_cast<const T*>(v.data) + b * v.stride;
}
template <class T>
PRESTISSIMO_DEVICE T* sample(const SamplesOut& v, int64_t b) {
  return static_cast<T*>(v.data) + b * v.stride;
}

// The sample of this block, and the kFlatVectors vectors of V elements in it that this thread takes.
template <int V>
struct FlatShare {
  static constexpr int kStep = kFlatThreads * V;
  int64_t b, first, size;

  PRESTISSIMO_DEVICE explicit FlatShare(int64_t sample_size) : size(sample_size) {
    constexpr int kBlock = kStep * kFlatVectors;
    const uint32_t chunks = static_cast<uint32_t>((size + kBlock - 1) / kBlock);
    b = blockIdx.x / chunks;
    first = static_cast<int64_t>(blockIdx.x % chunks) * kBlock + threadIdx.x * V;
  }

  // f(k, i): vector k begins at element i of the sample.
  template <class F>
  PRESTISSIMO_DEVICE void for_each(F f) const {
#pragma unroll
    for (int k = 0; k < kFlatVectors; ++k)
      if (first + k * kStep < size) f(k, first + k * kStep);
  }
};

// Storage types by suffix, with the lanes of one access: M(suffix, T, V, ...).
#define FLAT_TYPES(M, ...)         \
  M(f32_x4, float, 4, __VA_ARGS__) \
  M(f32_x1, float, 1, __VA_ARGS__) \
  M(bf16_x8, bf16, 8, __VA_ARGS__) \
  M(bf16_x1, bf16, 1, __VA_ARGS__) M(f16_x8, f16, 8, __VA_ARGS__) M(f16_x1, f16, 1, __VA_ARGS__)
#define FRAME_TYPES(M, ...) M(f32, float, __VA_ARGS__) M(bf16, bf16, __VA_ARGS__) M(f16, f16, __VA_ARGS__)
#define FLAT_NAME(suffix, T, V, X, name) X(name##_##suffix)
#define FRAME_NAME(suffix, T, X, name) X(name##_##suffix)

}  // namespace prestissimo::cuda
