// SPDX-License-Identifier: Apache-2.0
#include "scratch.h"

#include <cstdlib>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace prestissimo::cpu {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t up_to(int64_t unit, int64_t n) { return (n + unit - 1) / unit * unit; }

// From 2 MB on in huge pages where the system offers them: a packed operand is read along many rows at once.
void* allocate(int64_t bytes) {
  const int64_t unit = bytes >= kHugePage ? kHugePage : 64;
  const auto size = static_cast<size_t>(up_to(unit, bytes));
  void* p = std::aligned_alloc(static_cast<size_t>(unit), size);
#ifdef __linux__
  if (p && unit == kHugePage) madvise(p, size, MADV_HUGEPAGE);
#endif
  return p;
}

// A stack: pieces lie one behind the other in `base`; those that did not fit are allocations of their own, and once
// all are given back, base grows to what would have held them.
struct Arena {
  char* base = nullptr;
  int64_t capacity = 0, used = 0, in_use = 0, most = 0;
  struct Piece {
    char* memory;
    int64_t bytes;
  };
  std::vector<Piece> pieces;

  ~Arena() { std::free(base); }

  void* take(int64_t bytes) {
    bytes = up_to(64, bytes < 1 ? 1 : bytes);
    if (pieces.empty() && most > capacity && most <= kKeptBytes) {
      std::free(base);
      base = static_cast<char*>(allocate(most));
      capacity = base ? most : 0;
    }
    const bool fits = used + bytes <= capacity;
    char* p = fits ? base + used : static_cast<char*>(allocate(bytes));
    if (!p) return nullptr;
    try {
      pieces.push_back({p, bytes});
    } catch (const std::bad_alloc&) {
      if (!fits) std::free(p);
      return nullptr;
    }
    if (fits) used += bytes;
    in_use += bytes;
    if (in_use > most) most = in_use;
    return p;
  }

  void give() {
    const Piece last = pieces.back();
    pieces.pop_back();
    in_use -= last.bytes;
    if (last.memory >= base && last.memory < base + capacity)
      used -= last.bytes;
    else
      std::free(last.memory);
  }
};

Arena& arena() {
  static thread_local Arena a;
  return a;
}

}  // namespace

void* take_scratch(int64_t bytes) { return arena().take(bytes); }
void give_scratch(void* memory) {
  if (memory) arena().give();
}

}  // namespace prestissimo::cpu
