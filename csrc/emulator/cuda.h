// SPDX-License-Identifier: Apache-2.0
// CUDA C++ as a kernel source sees it when g++ compiles it for the host lane: built-in variables and functions.
// NVIDIA's own headers supply the 16-bit types and their conversions, so that rounding is theirs.
// Not here, because kernels must not use it: textures, grid sync, device printf and assert.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>

#include "block.h"
#include "memory.h"
#include "races.h"
#include "report.h"

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static_assert(false, "shared memory is declared by SHARED_ARRAY: it must be poisoned and tracked");

#define SHARED_ARRAY(T, name, n)                                        \
  static const ::emulator::SharedArray name##_storage(sizeof(T) * (n)); \
  T(&name)[n] = *static_cast<T(*)[n]>(name##_storage.data())
#define DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::emulator::dynamic_shared())

#define threadIdx (::emulator::block().current->index)
#define blockIdx (::emulator::block().index)
#define blockDim (::emulator::block().size)
#define gridDim (::emulator::block().grid)

#define EMULATOR_HERE std::source_location here = std::source_location::current()

inline void __syncthreads(EMULATOR_HERE) { emulator::block_barrier(here); }

namespace emulator::warp {

constexpr unsigned kAll = ~0u;

struct Nothing {};
inline void synchronise(const std::array<Nothing*, kWarp>&, unsigned mask) {
  races::warp_barrier(block().warp(), mask);
}

template <class T>
struct Shuffle {
  T value, result;
  int source;
};
template <class T>
void shuffle_lanes(const std::array<Shuffle<T>*, kWarp>& lanes, unsigned mask) {
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    if (!(mask >> lanes[i]->source & 1))
      found("shuffle reads lane " + std::to_string(lanes[i]->source) + ", which takes no part");
    else
      lanes[i]->result = lanes[lanes[i]->source]->value;
  }
}
template <class T>
T shuffle(unsigned mask, T value, int source, std::source_location here) {
  Shuffle<T> slot{value, value, source};
  collective<Shuffle<T>, shuffle_lanes<T>>(mask, slot, here);
  return slot.result;
}

struct Vote {
  bool predicate;
  unsigned result;
};
inline void ballot_lanes(const std::array<Vote*, kWarp>& lanes, unsigned mask) {
  unsigned result = 0;
  for (int i = 0; i < kWarp; ++i)
    if (mask >> i & 1 && lanes[i]->predicate) result |= 1u << i;
  for (int i = 0; i < kWarp; ++i)
    if (mask >> i & 1) lanes[i]->result = result;
}

template <class T>
struct Match {
  T value;
  unsigned result;
};
template <class T>
void match_lanes(const std::array<Match<T>*, kWarp>& lanes, unsigned mask) {
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    lanes[i]->result = 0;
    for (int j = 0; j < kWarp; ++j)
      if (mask >> j & 1 && lanes[j]->value == lanes[i]->value) lanes[i]->result |= 1u << j;
  }
}

enum class Reduction { add, min, max, bit_and, bit_or, bit_xor };
template <class T>
struct Reduce {
  T value;
};
template <class T, Reduction Op>
void reduce_lanes(const std::array<Reduce<T>*, kWarp>& lanes, unsigned mask) {
  bool first = true;
  T r{};
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    const T v = lanes[i]->value;
    if (first)
      r = v;
    else if constexpr (Op == Reduction::add)
      r = static_cast<T>(static_cast<unsigned>(r) + static_cast<unsigned>(v));
    else if constexpr (Op == Reduction::min)
      r = v < r ? v : r;
    else if constexpr (Op == Reduction::max)
      r = v > r ? v : r;
    else if constexpr (Op == Reduction::bit_and)
      r &= v;
    else if constexpr (Op == Reduction::bit_or)
      r |= v;
    else
      r ^= v;
    first = false;
  }
  for (int i = 0; i < kWarp; ++i)
    if (mask >> i & 1) lanes[i]->value = r;
}
template <Reduction Op, class T>
T reduce(unsigned mask, T value, std::source_location here) {
  Reduce<T> slot{value};
  collective<Reduce<T>, reduce_lanes<T, Op>>(mask, slot, here);
  return slot.value;
}

}  // namespace emulator::warp

inline void __syncwarp(unsigned mask = ~0u, EMULATOR_HERE) {
  emulator::warp::Nothing slot;
  emulator::collective<emulator::warp::Nothing, emulator::warp::synchronise>(mask, slot, here);
}

// `width` is a power of two: lanes exchange within groups of that size, and a source outside the group is the lane
// itself.
template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::block().lane();
  return emulator::warp::shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)), here);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::block().lane(), source = lane ^ bits;
  return emulator::warp::shuffle(mask, v, source <= (lane | (width - 1)) ? source : lane, here);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, int delta, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::block().lane();
  return emulator::warp::shuffle(mask, v, (lane & (width - 1)) + delta < width ? lane + delta : lane, here);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, int delta, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::block().lane();
  return emulator::warp::shuffle(mask, v, (lane & (width - 1)) - delta >= 0 ? lane - delta : lane, here);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_HERE) {
  emulator::warp::Vote slot{predicate != 0, 0};
  emulator::collective<emulator::warp::Vote, emulator::warp::ballot_lanes>(mask, slot, here);
  return slot.result;
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_HERE) { return __ballot_sync(mask, predicate, here) != 0; }
inline int __all_sync(unsigned mask, int predicate, EMULATOR_HERE) {
  return __ballot_sync(mask, predicate, here) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, EMULATOR_HERE) {
  emulator::warp::Match<T> slot{value, 0};
  emulator::collective<emulator::warp::Match<T>, emulator::warp::match_lanes<T>>(mask, slot, here);
  return slot.result;
}
template <class T>
T __reduce_add_sync(unsigned mask, T v, EMULATOR_HERE) {
  return emulator::warp::reduce<emulator::warp::Reduction::add>(mask, v, here);
}
template <class T>
T __reduce_min_sync(unsigned mask, T v, EMULATOR_HERE) {
  return emulator::warp::reduce<emulator::warp::Reduction::min>(mask, v, here);
}
template <class T>
T __reduce_max_sync(unsigned mask, T v, EMULATOR_HERE) {
  return emulator::warp::reduce<emulator::warp::Reduction::max>(mask, v, here);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned v, EMULATOR_HERE) {
  return emulator::warp::reduce<emulator::warp::Reduction::bit_and>(mask, v, here);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned v, EMULATOR_HERE) {
  return emulator::warp::reduce<emulator::warp::Reduction::bit_or>(mask, v, here);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned v, EMULATOR_HERE) {
  return emulator::warp::reduce<emulator::warp::Reduction::bit_xor>(mask, v, here);
}

namespace emulator {
// One OS thread, and no fiber switch between the load and the store: that is the atomicity.
template <class T, class Update>
__attribute__((noinline, no_sanitize("thread"))) T atomic(T* p, Update update) {
  races::note(p, sizeof(T), races::Access::atomic);
  const OutsideKernel quiet;
  const T old = *p;
  *p = update(old);
  return old;
}
}  // namespace emulator

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return emulator::atomic(p, [v](T old) { return static_cast<T>(old + v); });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  return emulator::atomic(p, [v](T old) { return old > v ? old : v; });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  return emulator::atomic(p, [v](T old) { return old < v ? old : v; });
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> v) {
  return emulator::atomic(p, [v](T old) { return static_cast<T>(old | v); });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return emulator::atomic(p, [v](T) { return v; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return emulator::atomic(p, [expected, v](T old) { return old == expected ? v : old; });
}

// Correctly rounded; the device's approximations are within 2 units of them (the PTX lane moves them by that much).
inline float rsqrtf(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
// Volatile, so that no compiler contracts a product and a sum into one rounding.
inline float __fmul_rn(float a, float b) {
  volatile float r = a * b;
  return r;
}
inline float __fadd_rn(float a, float b) {
  volatile float r = a + b;
  return r;
}
inline double __dmul_rn(double a, double b) {
  volatile double r = a * b;
  return r;
}
inline double __dadd_rn(double a, double b) {
  volatile double r = a + b;
  return r;
}
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }

template <class To, class From>
To emulator_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof(y));
  return y;
}
inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
inline int __float_as_int(float x) { return emulator_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
inline float __int_as_float(int x) { return emulator_bits<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
