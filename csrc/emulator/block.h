// SPDX-License-Identifier: Apache-2.0
// Blocks run one after another; inside a block every CUDA thread is a fiber that runs until it must wait.
// The order is adversarial: it is drawn from a seed, and with `skew` one warp runs as far ahead of the others as it
// can, so that "it worked because the warps went in step" never hides a missing barrier.
#pragma once
#include <cuda_runtime_api.h>  // dim3, uint3

#include <array>
#include <cstdint>
#include <functional>
#include <random>
#include <source_location>
#include <vector>

#include "fiber.h"

namespace emulator {

constexpr int kWarp = 32;

struct Options {
  uint64_t seed = 1;
  bool shuffle = true;        // draw the order of blocks and threads; otherwise ascending
  bool skew = true;           // let one warp run ahead, redrawn now and then
  bool cp_async_late = true;  // bytes land at wait_group; otherwise at issue
  bool mma_truncate = false;  // tensor cores cut addends to 24 bits below the largest; otherwise one exact sum
};

enum class Wait : uint8_t { none, block_barrier, warp, done };

struct Thread {
  Fiber fiber;
  Wait wait = Wait::done;
  uint3 index{};
  int linear = 0;
  std::source_location where;
};

// Lanes that wait for each other in one warp operation: the last to arrive runs it for all.
struct Rendezvous {
  unsigned mask, arrived;
  const void* operation;
  std::array<void*, kWarp> slot;
};

struct Block {
  Options options;
  dim3 grid, size;
  uint3 index{};
  std::vector<Thread> threads;
  Thread* current = nullptr;
  int live = 0, at_barrier = 0;
  std::vector<std::vector<Rendezvous>> rendezvous;  // by warp
  std::mt19937_64 random;
  bool in_kernel = false;  // a fiber runs kernel code: memory accesses count

  int lane() const { return current->linear % kWarp; }
  int warp() const { return current->linear / kWarp; }
};
Block& block();

// Runs `kernel` for every block of the grid, or for the listed linear block indices only.
void launch(dim3 grid, dim3 size, size_t dynamic_shared, const std::function<void()>& kernel,
            const std::vector<uint64_t>& only_blocks = {});

void block_barrier(std::source_location where);

using WarpFunction = void (*)(const std::array<void*, kWarp>& slots, unsigned mask);
// `operation` tells operations apart (the address of their function): lanes that meet in different ones are reported.
void warp_collective(const void* operation, unsigned mask, void* slot, WarpFunction run, std::source_location where);

// Every lane of `mask` deposits a Slot; `run(slots, mask)` sees them all, then each lane continues with its own.
template <class Slot, void (*Run)(const std::array<Slot*, kWarp>&, unsigned)>
void collective(unsigned mask, Slot& slot, std::source_location where) {
  constexpr WarpFunction erased = [](const std::array<void*, kWarp>& raw, unsigned m) {
    std::array<Slot*, kWarp> slots{};
    for (int i = 0; i < kWarp; ++i) slots[i] = static_cast<Slot*>(raw[i]);
    Run(slots, m);
  };
  warp_collective(reinterpret_cast<const void*>(Run), mask, &slot, erased, where);
}

// Host code of the emulator that touches kernel memory on its own account, unseen by the race checker.
class OutsideKernel {
 public:
  OutsideKernel() : was_(block().in_kernel) { block().in_kernel = false; }
  ~OutsideKernel() { block().in_kernel = was_; }

 private:
  bool was_;
};

}  // namespace emulator
