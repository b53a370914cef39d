// SPDX-License-Identifier: Apache-2.0
#include "races.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <vector>

#include "block.h"
#include "report.h"

namespace emulator::races {
namespace {

// Time within a block. `epoch` counts block barriers: what lies in an earlier epoch is ordered before everything now.
// Inside one epoch only lanes of one warp can be ordered, by vector clocks that __syncwarp joins: lane q's event at
// q's own time k is ordered before lane t's next one iff clock[t][q] >= k.
using LaneClocks = std::array<std::array<uint32_t, kWarp>, kWarp>;
uint32_t block_number = 0, epoch = 0;
std::vector<LaneClocks> clocks;  // by warp

constexpr int32_t kNobody = -1, kManyWarps = -2, kManyBlocks = -3;

// One byte of memory: its last writer, and its readers since. Readers of one warp are a lane mask; readers of several
// warps need no more than that fact, because a writer is ordered after at most one warp without a barrier.
struct Cell {
  int32_t writer = kNobody, reader_warp = kNobody;
  uint32_t writer_block = 0, writer_epoch = 0, writer_time = 0;
  uint32_t reader_block = 0, reader_epoch = 0, reader_lanes = 0, reader_time = 0;
  bool written = false, by_atomic = false, in_flight = false;
};

struct Shadow {
  Region region;
  std::vector<Cell> cells;
};
std::map<uintptr_t, Shadow> shadows;  // by first address

struct Now {
  int thread, lane, warp;
  uint32_t time;
};

Now now() {
  const Block& b = block();
  const int lane = b.lane(), warp = b.warp();
  return {b.current->linear, lane, warp, clocks[warp][lane][lane]};
}

bool ordered(int other, uint32_t other_block, uint32_t other_epoch, uint32_t other_time, const Now& me) {
  if (other == kNobody) return true;
  if (other_block != block_number) return false;
  if (other == me.thread || other_epoch != epoch) return true;
  return other / kWarp == me.warp && clocks[me.warp][me.lane][other % kWarp] >= other_time;
}

bool readers_ordered(const Cell& c, const Now& me) {
  if (c.reader_warp == kNobody) return true;
  if (c.reader_warp == kManyBlocks || c.reader_block != block_number) return false;
  if (c.reader_epoch != epoch) return true;
  if (c.reader_warp != me.warp) return false;
  for (int q = 0; q < kWarp; ++q)
    if (c.reader_lanes >> q & 1 && q != me.lane && clocks[me.warp][me.lane][q] < c.reader_time) return false;
  return true;
}

void add_reader(Cell& c, const Now& me) {
  const bool other_blocks = c.reader_warp != kNobody && c.reader_block != block_number;
  if (c.reader_warp == kManyBlocks || other_blocks) {
    c.reader_warp = kManyBlocks;
    return;
  }
  if (readers_ordered(c, me)) {  // earlier readers are ordered before whatever is ordered after this one
    c.reader_warp = me.warp;
    c.reader_lanes = 1u << me.lane;
    c.reader_time = me.time;
  } else if (c.reader_warp == me.warp) {
    c.reader_lanes |= 1u << me.lane;
    c.reader_time = std::max(c.reader_time, me.time);
  } else {
    c.reader_warp = kManyWarps;
  }
  c.reader_block = block_number;
  c.reader_epoch = epoch;
}

Shadow* shadow_of(uintptr_t p) {
  auto it = shadows.upper_bound(p);
  if (it == shadows.begin()) return nullptr;
  Shadow& s = (--it)->second;
  return p < it->first + s.region.bytes ? &s : nullptr;
}

void race(const char* what, const Shadow& s, size_t offset, int other) {
  found(std::string("race: ") + what + ", byte " + std::to_string(offset) + " of a " + std::to_string(s.region.bytes) +
        "-byte " + (s.region.shared ? "shared" : "global") + " array" +
        (other >= 0 ? ", against thread " + std::to_string(other) : ""));
}

// Returns false after the first finding of an access, which then stops: one report for one access.
bool note_byte(Shadow& s, size_t offset, Access access, const Now& me) {
  Cell& c = s.cells[offset];
  if (access == Access::async_landed) {
    c.in_flight = false;
    c.writer = me.thread, c.writer_block = block_number, c.writer_epoch = epoch, c.writer_time = me.time;
    return true;
  }
  if (c.in_flight) {
    c.in_flight = false;
    race(access == Access::read ? "read of a cp.async destination before its wait_group"
                                : "write to a cp.async destination in flight",
         s, offset, c.writer);
    return false;
  }
  const bool both_atomic = access == Access::atomic && c.by_atomic;
  if (!both_atomic && !ordered(c.writer, c.writer_block, c.writer_epoch, c.writer_time, me)) {
    race(access == Access::read ? "read after an unordered write" : "two unordered writes", s, offset, c.writer);
    c.writer = kNobody;
    return false;
  }
  if (access == Access::read) {
    if (!c.written && !s.region.filled) {
      c.written = true;
      race("read of memory that was never written", s, offset, kNobody);
      return false;
    }
    add_reader(c, me);
    return true;
  }
  if (!readers_ordered(c, me)) {
    race("write while another thread may still read", s, offset, kNobody);
    c.reader_warp = kNobody;
    return false;
  }
  c.writer = me.thread, c.writer_block = block_number, c.writer_epoch = epoch, c.writer_time = me.time;
  c.reader_warp = kNobody;
  c.written = true;
  c.by_atomic = access == Access::atomic;
  c.in_flight = access == Access::async_issue;
  return true;
}

}  // namespace

// What an earlier launch wrote stays written; who wrote it no longer matters, because launches are ordered.
void begin_launch() {
  block_number = epoch = 0;
  std::map<uintptr_t, Shadow> before;
  before.swap(shadows);
  for (const Region& r : global_regions()) {
    begin_region(r);
    const auto address = reinterpret_cast<uintptr_t>(r.begin);
    const auto old = before.find(address);
    if (old == before.end()) continue;
    for (size_t i = 0; i < r.bytes; ++i) shadows[address].cells[i].written = old->second.cells[i].written;
  }
  for (const Region& r : shared_regions()) begin_region(r);
}

void forget() { shadows.clear(); }

void begin_block(int threads) {
  ++block_number;
  epoch = 0;
  LaneClocks start{};
  for (int i = 0; i < kWarp; ++i) start[i][i] = 1;
  clocks.assign((threads + kWarp - 1) / kWarp, start);
  for (auto& [address, s] : shadows)
    if (s.region.shared) s.cells.assign(s.region.bytes, {});
}

void begin_region(const Region& region) {
  Shadow& s = shadows[reinterpret_cast<uintptr_t>(region.begin)];
  s.region = region;
  s.cells.assign(region.bytes, {});
}

void block_barrier() { ++epoch; }

void warp_barrier(int warp, unsigned mask) {
  LaneClocks& c = clocks[warp];
  std::array<uint32_t, kWarp> joined{};
  for (int l = 0; l < kWarp; ++l)
    if (mask >> l & 1)
      for (int q = 0; q < kWarp; ++q) joined[q] = std::max(joined[q], c[l][q]);
  for (int l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1)) continue;
    c[l] = joined;
    ++c[l][l];
  }
}

void note(const void* p, size_t bytes, Access access) {
  if (!block().current) return;
  const auto address = reinterpret_cast<uintptr_t>(p);
  const Now me = now();
  Shadow* s = shadow_of(address);
  if (!s) {
    if (in_guard_zone(p)) found("out of bounds: access next to an array");
    return;
  }
  for (size_t k = 0; k < bytes; ++k) {
    const size_t offset = address + k - reinterpret_cast<uintptr_t>(s->region.begin);
    if (offset >= s->region.bytes) return found("out of bounds: access runs past the end of an array");
    if (!note_byte(*s, offset, access, me)) return;
  }
}

}  // namespace emulator::races

// The hooks also fire inside inline code of the emulator that a kernel file instantiates: in_kernel is off there, or
// `busy` is on.
namespace {
bool busy = false;
void hook(void* p, size_t bytes, emulator::races::Access access) {
  if (busy || !emulator::block().in_kernel) return;
  busy = true;
  emulator::races::note(p, bytes, access);
  busy = false;
}
}  // namespace

using emulator::races::Access;
#define TSAN_HOOKS(n)                                                    \
  void __tsan_read##n(void* p) { hook(p, n, Access::read); }             \
  void __tsan_write##n(void* p) { hook(p, n, Access::write); }           \
  void __tsan_unaligned_read##n(void* p) { hook(p, n, Access::read); }   \
  void __tsan_unaligned_write##n(void* p) { hook(p, n, Access::write); } \
  void __tsan_volatile_read##n(void* p) { hook(p, n, Access::read); }    \
  void __tsan_volatile_write##n(void* p) { hook(p, n, Access::write); }
extern "C" {
TSAN_HOOKS(1)
TSAN_HOOKS(2)
TSAN_HOOKS(4)
TSAN_HOOKS(8)
TSAN_HOOKS(16)
void __tsan_read_range(void* p, size_t n) { hook(p, n, Access::read); }
void __tsan_write_range(void* p, size_t n) { hook(p, n, Access::write); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
