// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <cstring>

#include "block.h"
#include "races.h"
#include "report.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

constexpr size_t kGuard = 4096;
constexpr unsigned char kGuardByte = 0xA5;
constexpr unsigned char kNan = 0xff;  // repeated: a NaN in float32, bfloat16 and float16

struct Allocation {
  std::unique_ptr<char[]> storage;
  char *zone_begin, *zone_end;
};

struct Copy {
  void* shared;
  const void* global;
  int bytes, valid;
};
using Group = std::vector<Copy>;

std::vector<Region> shared, global;
std::vector<Allocation> allocations;  // one for each entry of `global`
std::vector<char> dynamic;
bool dynamic_known = false;
std::vector<std::vector<Group>> copies;  // by thread: committed groups, then the open one

void fill_with_nan(const Region& r) {
  const OutsideKernel quiet;
  std::memset(r.begin, kNan, r.bytes);
}

void land(const Copy& c) {
  const OutsideKernel quiet;
  std::memcpy(c.shared, c.global, c.valid);
  std::memset(static_cast<char*>(c.shared) + c.valid, 0, c.bytes - c.valid);
}

void complete(Group& group) {
  for (const Copy& c : group) {
    if (block().options.cp_async_late) land(c);
    races::note(c.shared, c.bytes, races::Access::async_landed);
  }
  group.clear();
}

}  // namespace

SharedArray::SharedArray(void* array, size_t bytes) {
  shared.push_back({static_cast<char*>(array), bytes, true, false});
  fill_with_nan(shared.back());
  races::begin_region(shared.back());
}

void* dynamic_shared() {
  if (!dynamic_known) {
    dynamic_known = true;
    shared.push_back({dynamic.data(), dynamic.size(), true, false});
    races::begin_region(shared.back());
  }
  return dynamic.data();
}

const std::vector<Region>& shared_regions() { return shared; }
const std::vector<Region>& global_regions() { return global; }

char* allocate_global(size_t bytes, size_t misalign, const void* contents) {
  constexpr size_t kAlign = 256;
  Allocation a;
#if defined(__SANITIZE_ADDRESS__)
  const size_t after = 0;  // AddressSanitizer's own red zone begins at the last byte
#else
  const size_t after = kGuard;
#endif
  const size_t total = kGuard + kAlign + misalign + bytes + after;
  a.storage = std::make_unique<char[]>(total);
  const auto base = reinterpret_cast<uintptr_t>(a.storage.get()) + kGuard;
  char* begin = reinterpret_cast<char*>((base + kAlign - 1) / kAlign * kAlign) + misalign;
  a.zone_begin = begin - kGuard;
  a.zone_end = begin + bytes + after;
  std::memset(a.storage.get(), kGuardByte, total);
  if (contents)
    std::memcpy(begin, contents, bytes);
  else
    std::memset(begin, kNan, bytes);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(a.storage.get(), begin - a.storage.get());
  ASAN_POISON_MEMORY_REGION(begin + bytes, a.storage.get() + total - (begin + bytes));
#endif
  global.push_back({begin, bytes, false, contents != nullptr});
  allocations.push_back(std::move(a));
  return begin;
}

void free_globals() {
#if defined(__SANITIZE_ADDRESS__)
  for (size_t i = 0; i < global.size(); ++i)
    ASAN_UNPOISON_MEMORY_REGION(allocations[i].zone_begin, allocations[i].zone_end - allocations[i].zone_begin);
#endif
  global.clear();
  allocations.clear();
  races::forget();
}

const Region* guarded_by(const void* p) {
  const char* c = static_cast<const char*>(p);
  for (size_t i = 0; i < global.size(); ++i)
    if (c >= allocations[i].zone_begin && c < allocations[i].zone_end) return &global[i];
  return nullptr;
}

void begin_launch_memory(size_t dynamic_shared_bytes) {
  std::erase_if(shared, [](const Region& r) { return dynamic_known && r.begin == dynamic.data(); });
  dynamic_known = false;
  dynamic.assign(dynamic_shared_bytes, static_cast<char>(kNan));
}

void begin_block_memory(int threads) {
  for (const Region& r : shared) fill_with_nan(r);
  copies.assign(threads, std::vector<Group>(1));
}

void end_launch_memory() {
#if !defined(__SANITIZE_ADDRESS__)
  for (size_t i = 0; i < global.size(); ++i) {
    const Region& r = global[i];
    const auto damaged = [](const char* p, const char* end) {
      for (; p < end; ++p)
        if (static_cast<unsigned char>(*p) != kGuardByte) return true;
      return false;
    };
    if (damaged(allocations[i].zone_begin, r.begin))
      found("out of bounds: something was written before global buffer " + std::to_string(i));
    if (damaged(r.begin + r.bytes, allocations[i].zone_end))
      found("out of bounds: something was written past global buffer " + std::to_string(i));
  }
#endif
}

void cp_async_issue(void* destination, const void* source, int bytes, int valid_bytes) {
  if (reinterpret_cast<uintptr_t>(destination) % bytes || (valid_bytes && reinterpret_cast<uintptr_t>(source) % bytes))
    return found("cp.async: address not aligned to its size");
  if (valid_bytes) {
    races::note(source, valid_bytes, races::Access::read);
    volatile char touched = *static_cast<const char*>(source);  // AddressSanitizer sees both ends
    touched = static_cast<const char*>(source)[valid_bytes - 1];
    (void)touched;
  }
  races::note(destination, bytes, races::Access::async_issue);
  const Copy copy{destination, source, bytes, valid_bytes};
  if (!block().options.cp_async_late) land(copy);
  copies[block().current->linear].back().push_back(copy);
}

void cp_async_commit() { copies[block().current->linear].emplace_back(); }

void cp_async_wait(int groups_left_pending) {
  auto& groups = copies[block().current->linear];
  if (groups_left_pending < 0) {
    for (Group& g : groups) complete(g);
    groups.assign(1, {});
    return;
  }
  while (groups.size() > static_cast<size_t>(groups_left_pending) + 1) {
    complete(groups.front());
    groups.erase(groups.begin());
  }
}

void cp_async_thread_exit(int thread) {
  for (const Group& g : copies[thread])
    if (!g.empty()) return found("a thread exits with cp.async copies that it never waited for");
}

}  // namespace emulator
