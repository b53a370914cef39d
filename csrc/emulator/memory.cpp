// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "block.h"
#include "races.h"
#include "report.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

constexpr size_t kGuard = 4096, kAlign = 256;
constexpr unsigned char kGuardByte = 0xA5;
constexpr unsigned char kNan = 0xff;  // repeated: a NaN in float32, bfloat16 and float16

// An array of its own storage, kGuard bytes of known content on either side.
class Zoned {
 public:
  Zoned(size_t bytes, size_t misalign) : bytes_(bytes) {
    const size_t total = kGuard + kAlign + misalign + bytes + kGuard;
    storage_ = std::make_unique<char[]>(total);
    std::memset(storage_.get(), kGuardByte, total);
    const auto base = reinterpret_cast<uintptr_t>(storage_.get()) + kGuard;
    begin_ = reinterpret_cast<char*>((base + kAlign - 1) / kAlign * kAlign) + misalign;
    std::memset(begin_, kNan, bytes);
#if defined(__SANITIZE_ADDRESS__)
    // Of a granule of 8 bytes only the end can be closed: an array that begins inside one has up to 7 open bytes before
    // it.
    ASAN_POISON_MEMORY_REGION(begin_ - kGuard, kGuard);
    ASAN_POISON_MEMORY_REGION(begin_ + bytes, kGuard);
#endif
  }
  ~Zoned() {
#if defined(__SANITIZE_ADDRESS__)
    if (storage_) ASAN_UNPOISON_MEMORY_REGION(begin_ - kGuard, bytes_ + 2 * kGuard);
#endif
  }
  Zoned(Zoned&&) = default;
  Zoned& operator=(Zoned&&) = delete;

  char* begin() const { return begin_; }
  bool guards(const char* p) const { return p >= begin_ - kGuard && p < begin_ + bytes_ + kGuard; }

  // Says what was written into the guard zones, and makes them whole again.
  void report_damage([[maybe_unused]] const char* what) {
#if !defined(__SANITIZE_ADDRESS__)
    const std::string array = " a " + std::to_string(bytes_) + "-byte " + what + " array";
    if (damaged(begin_ - kGuard)) found("out of bounds: something was written before" + array);
    if (damaged(begin_ + bytes_)) found("out of bounds: something was written past" + array);
#endif
  }

 private:
  static bool damaged(char* zone) {
    const bool whole =
        std::all_of(zone, zone + kGuard, [](char c) { return static_cast<unsigned char>(c) == kGuardByte; });
    if (!whole) std::memset(zone, kGuardByte, kGuard);
    return !whole;
  }

  std::unique_ptr<char[]> storage_;
  char* begin_;
  size_t bytes_;
};

struct Copy {
  void* shared;
  const void* global;
  int bytes, valid;
};
using Group = std::vector<Copy>;

std::vector<Region> shared, global;
std::vector<Zoned> shared_storage, global_storage;
std::unique_ptr<Zoned> dynamic;
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

SharedArray::SharedArray(size_t bytes) {
  const OutsideKernel quiet;
  shared_storage.emplace_back(bytes, 0);
  data_ = shared_storage.back().begin();
  shared.push_back({static_cast<char*>(data_), bytes, true, false});
  races::begin_region(shared.back());
}

void* dynamic_shared() { return dynamic->begin(); }

const std::vector<Region>& shared_regions() { return shared; }
const std::vector<Region>& global_regions() { return global; }

char* allocate_global(size_t bytes, size_t misalign, const void* contents) {
  global_storage.emplace_back(bytes, misalign);
  char* begin = global_storage.back().begin();
  if (contents) std::memcpy(begin, contents, bytes);
  global.push_back({begin, bytes, false, contents != nullptr});
  return begin;
}

void free_globals() {
  global.clear();
  global_storage.clear();
  races::forget();
}

bool in_guard_zone(const void* p) {
  const auto guards = [c = static_cast<const char*>(p)](const Zoned& z) { return z.guards(c); };
  return std::any_of(global_storage.begin(), global_storage.end(), guards) ||
         std::any_of(shared_storage.begin(), shared_storage.end(), guards) || (dynamic && guards(*dynamic));
}

void begin_launch_memory(size_t dynamic_shared_bytes) {
  if (dynamic) std::erase_if(shared, [](const Region& r) { return r.begin == dynamic->begin(); });
  dynamic = std::make_unique<Zoned>(dynamic_shared_bytes, 0);
  shared.push_back({dynamic->begin(), dynamic_shared_bytes, true, false});
}

void begin_block_memory(int threads) {
  for (const Region& r : shared) fill_with_nan(r);
  copies.assign(threads, std::vector<Group>(1));
}

void end_launch_memory() {
  for (Zoned& z : global_storage) z.report_damage("global");
  for (Zoned& z : shared_storage) z.report_damage("shared");
  if (dynamic) dynamic->report_damage("dynamic shared");
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
