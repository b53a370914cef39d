// SPDX-License-Identifier: Apache-2.0
// total = sum over all elements of all tensors of g^2, through blocks of kListBlock elements that are added in their
// order: the same bits for any number of threads.
// Backward: dg = 2 dtotal g.
#pragma once
#include "../cpu/isa.h"
#include "tensor_group.h"

namespace prestissimo {

struct SquaredNormArgs {
  TensorGroup<1> group;
  float* partial;        // of the blocks of all groups
  int64_t blocks_ahead;  // of the groups before this one
  float* total;          // null but with the last group, which adds all blocks
  DType dtype;
};

struct SquaredNormBackwardArgs {
  TensorGroup<2> group;  // g, dg
  const float* dtotal;
  DType dtype;
};

namespace cuda {
void squared_norm(const SquaredNormArgs&, Stream);
void squared_norm_backward(const SquaredNormBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(squared_norm, SquaredNormArgs)
PRESTISSIMO_CPU_KERNEL(squared_norm_backward, SquaredNormBackwardArgs)
