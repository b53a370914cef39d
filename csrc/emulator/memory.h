// SPDX-License-Identifier: Apache-2.0
// Shared and global memory of the host lane. Shared memory is filled with NaN bits before each block. A global buffer
// lies between two guard zones: the race build sees every access to them, the other builds see what was written there.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace emulator {

struct Region {
  char* begin = nullptr;
  size_t bytes = 0;
  bool shared = false;
  bool filled = false;  // the host gave it contents: reading it before any store is fine
};

// Shared memory of one declaration, between guard zones of its own; the first thread that meets a SHARED_ARRAY makes
// it.
class SharedArray {
 public:
  explicit SharedArray(size_t bytes);
  void* data() const { return data_; }

 private:
  void* data_;
};
void* dynamic_shared();
const std::vector<Region>& shared_regions();

// `misalign` bytes off a 256-byte boundary; contents null leaves NaN bits that count as uninitialised.
char* allocate_global(size_t bytes, size_t misalign, const void* contents);
void free_globals();
const std::vector<Region>& global_regions();
bool in_guard_zone(const void* p);

void begin_launch_memory(size_t dynamic_shared_bytes);
void begin_block_memory(int threads);
void end_launch_memory();  // reports damaged guard zones

// cp.async: copies of the open group of the running thread, their groups, their arrival.
void cp_async_issue(void* shared, const void* global, int bytes, int valid_bytes);
void cp_async_commit();
void cp_async_wait(int groups_left_pending);  // -1: also the uncommitted copies (wait_all)
void cp_async_thread_exit(int thread);

}  // namespace emulator
