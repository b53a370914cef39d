// SPDX-License-Identifier: Apache-2.0
// Happens-before race checker. It is real in the race build, where the kernels are compiled with GCC's
// -fsanitize=thread but libtsan is not linked: the compiler's access hooks land in races.cpp. Elsewhere every function
// here does nothing.
//
// The order that it knows is CUDA's: program order, __syncthreads, __syncwarp among the lanes of its mask, cp.async
// from wait_group on; nothing orders two blocks of one launch; atomics do not race with each other. It needs no lucky
// schedule.
#pragma once
#include <cstddef>
#include <cstdint>

#include "memory.h"

namespace emulator::races {

enum class Access : uint8_t { read, write, atomic, async_issue, async_landed };

#if defined(EMULATOR_RACES)
void note(const void* p, size_t bytes, Access access);  // by the running thread
void block_barrier();
void warp_barrier(int warp, unsigned mask);
void begin_launch();
void begin_block(int threads);
void begin_region(const Region& region);
void forget();  // the global buffers are gone
#else
inline void note(const void*, size_t, Access) {}
inline void block_barrier() {}
inline void warp_barrier(int, unsigned) {}
inline void begin_launch() {}
inline void begin_block(int) {}
inline void begin_region(const Region&) {}
inline void forget() {}
#endif

}  // namespace emulator::races
