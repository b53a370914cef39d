// SPDX-License-Identifier: Apache-2.0
// Passes over lists of tensors (ops/tensor_group.h): a block of threads takes kListBlock elements of one tensor.
#pragma once
#include "../ops/tensor_group.h"
#include "samples.cuh"

namespace prestissimo::cuda {

// The tensor of this block, the element where its share begins, and one behind its last.
template <int N>
struct ListShare {
  int tensor;
  int64_t begin, end;

  PRESTISSIMO_DEVICE explicit ListShare(const TensorGroup<N>& g) {
    const int32_t block = static_cast<int32_t>(blockIdx.x);
    int low = 0, high = g.count;  // first_blocks[low] <= block < first_blocks[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (g.first_blocks[middle] <= block)
        low = middle;
      else
        high = middle;
    }
    tensor = low;
    begin = static_cast<int64_t>(block - g.first_blocks[low]) * kListBlock;
    end = begin + kListBlock < g.sizes[low] ? begin + kListBlock : g.sizes[low];
  }

  template <class T>
  PRESTISSIMO_DEVICE T* data(const TensorGroup<N>& g, int n) const {
    return static_cast<T*>(g.data[n][tensor]);
  }

  // vector(i) on whole vectors of V elements, one(i) on the rest of the tensor.
  template <int V, class Vector, class One>
  PRESTISSIMO_DEVICE void for_each(Vector vector, One one) const {
#pragma unroll
    for (int k = 0; k < kListBlock / (kFlatThreads * V); ++k) {
      const int64_t i = begin + (k * kFlatThreads + static_cast<int>(threadIdx.x)) * V;
      if (i + V <= end) vector(i);
    }
    if constexpr (V > 1) {
      const int64_t i = begin + (end - begin) / V * V + static_cast<int>(threadIdx.x);
      if (i < end) one(i);
    }
  }
};

// The launch of a kernel whose blocks are those of the group, in the order of FLAT_TYPES.
template <int N>
void add_list_blocks(LaunchPlan& p, const char* op, const TensorGroup<N>& g, DType dtype, int phase = 0) {
  p.add(op, flat_kernel(dtype, all_aligned_16(g), phase), g.first_blocks[g.count], kFlatThreads);
}

}  // namespace prestissimo::cuda
