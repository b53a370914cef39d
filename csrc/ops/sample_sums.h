// SPDX-License-Identifier: Apache-2.0
// Sums over all elements of a sample, through blocks of a fixed size that are added in their order: the same bits for
// any number of threads. `partial` holds [B][blocks][n] floats for n sums at once.
#pragma once
#include "samples.h"

namespace prestissimo {

constexpr int64_t kSumBlock = 4096;

inline int64_t sum_blocks(int64_t size) { return (size + kSumBlock - 1) / kSumBlock; }

// The float array of that size, checked.
inline float* partial_sums(const Checker& check, const Array& partial, int64_t batch, int64_t size, int64_t sums) {
  check.dtype("partial", partial, DType::float32).same_device("partial", partial).contiguous("partial", partial);
  check.shape("partial", partial, {batch * sum_blocks(size) * sums});
  return partial.as<float>();
}

}  // namespace prestissimo
