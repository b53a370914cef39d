// SPDX-License-Identifier: Apache-2.0
#include "../ops/philox_normal.h"

#include "parallel.h"
#define PRESTISSIMO_PHILOX_NAMESPACE prestissimo::cpu::PRESTISSIMO_ISA
#include "../philox.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Blocks of four numbers handled together; a plain loop that the compiler vectorises for each ISA.
constexpr int kBlocks = 64;

void fill(const PhiloxNormalArgs& a, int64_t b, int64_t first, int64_t last) {
  const uint64_t seed = static_cast<uint64_t>(a.seeds[b]);
  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const uint32_t item = static_cast<uint32_t>(a.items[b]);
  for (int64_t block = first; block < last; block += kBlocks) {
    float z[4][kBlocks];
    for (int k = 0; k < kBlocks; ++k) {
      const uint64_t n = static_cast<uint64_t>(block + k);
      const Words w =
          philox4x32_10({static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), item, a.stream}, key0, key1);
      const Normals p = box_muller(w.w0, w.w1), q = box_muller(w.w2, w.w3);
      z[0][k] = p.z0;
      z[1][k] = p.z1;
      z[2][k] = q.z0;
      z[3][k] = q.z1;
    }
    const int64_t begin = 4 * block, end = 4 * (last < block + kBlocks ? last : block + kBlocks);
    float* out = a.out + b * a.size;
    for (int64_t i = begin; i < end && i < a.size; ++i) out[i] = z[i & 3][(i - begin) >> 2];
  }
}

}  // namespace

void philox_normal(const PhiloxNormalArgs& a) {
  const int64_t blocks = (a.size + 3) / 4, chunks = (blocks + kBlocks - 1) / kBlocks;
  parallel_for(a.batch * chunks, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, first = i % chunks * kBlocks;
      fill(a, b, first, first + kBlocks < blocks ? first + kBlocks : blocks);
    }
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
