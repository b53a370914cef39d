// SPDX-License-Identifier: Apache-2.0
// Passes over lists of tensors (ops/tensor_group.h).
#pragma once
#include "../ops/tensor_group.h"
#include "parallel.h"
#include "storage.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

constexpr int64_t kGrainBlocks = 4;  // a thread takes at least so many: less would not pay for its start

// body(tensor, begin, end, block): elements begin to end of a tensor are block `block` of the group.
template <int N, class Body>
void for_list_blocks(const TensorGroup<N>& g, const Body& body) {
  parallel_for(g.first_blocks[g.count], kGrainBlocks, [&](int64_t first, int64_t last) {
    int i = 0;
    for (int64_t block = first; block < last; ++block) {
      while (g.first_blocks[i + 1] <= block) ++i;
      const int64_t begin = (block - g.first_blocks[i]) * kListBlock, end = begin + kListBlock;
      body(i, begin, end < g.sizes[i] ? end : g.sizes[i], block);
    }
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
