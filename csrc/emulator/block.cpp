// SPDX-License-Identifier: Apache-2.0
#include "block.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "memory.h"
#include "races.h"
#include "report.h"

namespace emulator {
namespace {

const std::function<void()>* running_kernel = nullptr;

unsigned lanes_of_warp(int warp) {
  const int lanes = std::min<int>(kWarp, static_cast<int>(block().threads.size()) - warp * kWarp);
  return lanes == kWarp ? ~0u : (1u << lanes) - 1;
}

void release_barrier() {
  Block& b = block();
  if (b.live == 0 || b.at_barrier != b.live) return;
  const Thread* first = nullptr;
  for (Thread& t : b.threads) {
    if (t.wait != Wait::block_barrier) continue;
    if (!first)
      first = &t;
    else if (t.where.line() != first->where.line())
      found("__syncthreads reached at different lines by threads of one block", t.where);
    t.wait = Wait::none;
  }
  b.at_barrier = 0;
  races::block_barrier();
}

void fiber_main() {
  Fiber::started();
  Block& b = block();
  b.in_kernel = true;
  (*running_kernel)();
  b.in_kernel = false;
  Thread& me = *b.current;
  cp_async_thread_exit(me.linear);
  me.wait = Wait::done;
  --b.live;
  release_barrier();
  me.fiber.suspend();
  std::abort();  // a finished thread is never resumed
}

void wait_here(Wait why, std::source_location where) {
  Block& b = block();
  Thread& me = *b.current;
  me.wait = why;
  me.where = where;
  b.in_kernel = false;
  me.fiber.suspend();
  b.in_kernel = true;
}

// Threads that may run now, in the order of this round.
std::vector<int> round_order(std::vector<uint64_t>& priority) {
  Block& b = block();
  std::vector<int> ready;
  for (const Thread& t : b.threads)
    if (t.wait == Wait::none) ready.push_back(t.linear);
  if (!b.options.shuffle || ready.empty()) return ready;
  std::shuffle(ready.begin(), ready.end(), b.random);
  if (b.options.skew) {
    if (priority.empty() || b.random() % 64 == 0) {
      priority.resize(b.rendezvous.size());
      for (uint64_t& p : priority) p = b.random();
    }
    const auto slower = [&](int i, int j) { return priority[i / kWarp] < priority[j / kWarp]; };
    const int leader = *std::max_element(ready.begin(), ready.end(), slower) / kWarp;
    std::erase_if(ready, [&](int i) { return i / kWarp != leader; });
  }
  return ready;
}

void report_deadlock() {
  for (Thread& t : block().threads) {
    if (t.wait == Wait::done) continue;
    block().current = &t;
    found(t.wait == Wait::block_barrier ? "deadlock: waits at __syncthreads for threads that never come"
                                        : "deadlock: waits at a warp operation for lanes that never come",
          t.where);
    return;
  }
}

void run_block() {
  Block& b = block();
  const int n = static_cast<int>(b.threads.size()), warps = (n + kWarp - 1) / kWarp;
  b.live = n;
  b.at_barrier = 0;
  b.rendezvous.assign(warps, {});
  begin_block_memory(n);
  races::begin_block(n);
  for (int i = 0; i < n; ++i) {
    Thread& t = b.threads[i];
    t.linear = i;
    t.index = {i % b.size.x, i / b.size.x % b.size.y, i / (b.size.x * b.size.y)};
    t.wait = Wait::none;
    t.fiber.prepare(&fiber_main);
  }
  std::vector<uint64_t> priority;
  while (b.live) {
    const std::vector<int> order = round_order(priority);
    if (order.empty()) return report_deadlock();
    for (int i : order) {
      if (b.threads[i].wait != Wait::none) continue;
      b.current = &b.threads[i];
      b.in_kernel = true;
      b.threads[i].fiber.resume();
      b.in_kernel = false;
    }
  }
  b.current = nullptr;
}

}  // namespace

Block& block() {
  static Block b;
  return b;
}

Report& report() {
  static Report r;
  return r;
}

void found(const std::string& what, std::source_location where) {
  const Block& b = block();
  std::string text = what;
  if (b.current)
    text += " (block " + std::to_string(b.index.x) + "," + std::to_string(b.index.y) + "," + std::to_string(b.index.z) +
            " thread " + std::to_string(b.current->linear) + ")";
  if (where.line()) text += std::string(" at ") + where.file_name() + ":" + std::to_string(where.line());
  report().add(std::move(text));
}

void launch(dim3 grid, dim3 size, size_t dynamic_shared, const std::function<void()>& kernel,
            const std::vector<uint64_t>& only_blocks) {
  Block& b = block();
  const uint64_t threads = uint64_t{size.x} * size.y * size.z, blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (threads == 0 || threads > 1024) return found("a block must have 1 to 1024 threads");
  if (blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return found("grid out of range");
  b.grid = grid;
  b.size = size;
  b.random.seed(b.options.seed);
  if (b.threads.size() != threads) b.threads = std::vector<Thread>(threads);
  begin_launch_memory(dynamic_shared);
  races::begin_launch();
  running_kernel = &kernel;
  std::vector<uint64_t> order = only_blocks;
  if (order.empty()) {
    order.resize(blocks);
    std::iota(order.begin(), order.end(), uint64_t{0});
  }
  if (b.options.shuffle) std::shuffle(order.begin(), order.end(), b.random);
  for (uint64_t i : order) {
    b.index = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
               static_cast<unsigned>(i / grid.x / grid.y)};
    run_block();
    if (report().count() > 1000) break;
  }
  b.current = nullptr;
  end_launch_memory();
}

void block_barrier(std::source_location where) {
  Block& b = block();
  b.current->wait = Wait::block_barrier;
  b.current->where = where;
  ++b.at_barrier;
  release_barrier();
  if (b.current->wait != Wait::none) wait_here(Wait::block_barrier, where);
}

void warp_collective(const void* operation, unsigned mask, void* slot, WarpFunction run, std::source_location where) {
  Block& b = block();
  const int lane = b.lane(), warp = b.warp();
  auto& waiting = b.rendezvous[warp];
  if (!(mask >> lane & 1)) found("warp operation: the calling lane is not in its own mask", where);
  if (mask & ~lanes_of_warp(warp)) found("warp operation: the mask names lanes that this block does not have", where);
  Rendezvous* meeting = nullptr;
  for (Rendezvous& r : waiting)
    if (r.mask == mask && !(r.arrived >> lane & 1)) meeting = &r;
  if (!meeting) {
    for (const Rendezvous& r : waiting)
      if (r.mask & mask) found("warp operation: lanes of one warp wait with different masks", where);
    waiting.push_back({mask, 0, operation, {}});
    meeting = &waiting.back();
  }
  if (meeting->operation != operation) {  // their slots have different types: this lane waits for ever instead
    found("warp operation: lanes of one warp are in different operations", where);
    return wait_here(Wait::warp, where);
  }
  meeting->arrived |= 1u << lane;
  meeting->slot[lane] = slot;
  if (meeting->arrived != mask) return wait_here(Wait::warp, where);
  {
    const OutsideKernel quiet;
    run(meeting->slot, mask);
  }
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1) || i == lane) continue;
    Thread& t = b.threads[warp * kWarp + i];
    if (t.wait == Wait::warp) t.wait = Wait::none;
  }
  waiting.erase(waiting.begin() + (meeting - waiting.data()));
}

}  // namespace emulator
