// SPDX-License-Identifier: Apache-2.0
// Fills rows with numbers of Philox counters, four at a time; what four words become is the caller's.
#pragma once
#include "parallel.h"
#define PRESTISSIMO_PHILOX_NAMESPACE prestissimo::cpu::PRESTISSIMO_ISA
#include "../philox.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// Counters handled together; a plain loop that the compiler vectorises for each ISA.
constexpr int kPhiloxBlocks = 64;

template <class Args, class FourOf>
void philox_fill_blocks(const Args& a, int64_t b, int64_t first, int64_t last, const FourOf& four_of) {
  const uint64_t seed = static_cast<uint64_t>(a.seeds[b]);
  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const uint32_t item = static_cast<uint32_t>(a.items[b]);
  for (int64_t block = first; block < last; block += kPhiloxBlocks) {
    float z[4][kPhiloxBlocks];
    for (int k = 0; k < kPhiloxBlocks; ++k) {
      const uint64_t n = static_cast<uint64_t>(block + k);
      four_of(philox4x32_10({static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), item, a.stream}, key0, key1),
              z[0][k], z[1][k], z[2][k], z[3][k]);
    }
    const int64_t begin = 4 * block, end = 4 * (last < block + kPhiloxBlocks ? last : block + kPhiloxBlocks);
    float* out = a.out + b * a.size;
    for (int64_t i = begin; i < end && i < a.size; ++i) out[i] = z[i & 3][(i - begin) >> 2];
  }
}

template <class Args, class FourOf>
void philox_fill(const Args& a, const FourOf& four_of) {
  const int64_t blocks = (a.size + 3) / 4, chunks = (blocks + kPhiloxBlocks - 1) / kPhiloxBlocks;
  parallel_for(a.batch * chunks, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, first = i % chunks * kPhiloxBlocks;
      philox_fill_blocks(a, b, first, first + kPhiloxBlocks < blocks ? first + kPhiloxBlocks : blocks, four_of);
    }
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
