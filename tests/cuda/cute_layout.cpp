// SPDX-License-Identifier: Apache-2.0
// Prints NVIDIA's own layouts of mma.m16n8k16 (CuTe, 16-bit inputs, float32 accumulators): operand, lane, value, row,
// column.
#include <cstdio>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/tensor.hpp>

int main() {
  using Traits = cute::MMA_Traits<cute::SM80_16x8x16_F32BF16BF16F32_TN>;
  const Traits::ALayout a;  // (lane, value) to a column-major coordinate of 16 x 16, 8 x 16 (B transposed), 16 x 8
  const Traits::BLayout b;
  const Traits::CLayout c;
  for (int lane = 0; lane < 32; ++lane) {
    for (int v = 0; v < 8; ++v) std::printf("A %d %d %d %d\n", lane, v, int(a(lane, v)) % 16, int(a(lane, v)) / 16);
    for (int v = 0; v < 4; ++v) std::printf("B %d %d %d %d\n", lane, v, int(b(lane, v)) / 8, int(b(lane, v)) % 8);
    for (int v = 0; v < 4; ++v) std::printf("C %d %d %d %d\n", lane, v, int(c(lane, v)) % 16, int(c(lane, v)) / 16);
  }
}
