// SPDX-License-Identifier: Apache-2.0
// Which instruction set the CPU kernels use. Every kernel source is compiled once per ISA; this picks one at run time.
#pragma once
#include <string_view>

#if defined(__x86_64__) || defined(_M_X64)
#define PRESTISSIMO_X86 1
#else
#define PRESTISSIMO_X86 0
#endif

namespace prestissimo::cpu {

// avx512_bf16 is avx512 with dot products of bfloat16 pairs and of int8 quadruples (AVX512_BF16 and AVX512_VNNI).
enum class Isa { scalar, avx2, avx512, avx512_bf16 };
constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_bf16};  // narrowest first

const char* name(Isa isa);
bool supported(Isa isa);       // by this processor and its operating system
Isa active();                  // the widest supported one, unless forced
void force(std::string_view);  // "scalar", "avx2", "avx512", "avx512_bf16", or "" for the widest; throws ArgumentError

}  // namespace prestissimo::cpu

// Declares the kernel `function(const Args&)` of every ISA and, in namespace cpu, the function that calls the active
// one.
#if PRESTISSIMO_X86
#define PRESTISSIMO_CPU_KERNEL(function, Args)                                                           \
  namespace prestissimo::cpu::scalar {                                                                   \
  void function(const Args&);                                                                            \
  }                                                                                                      \
  namespace prestissimo::cpu::avx2 {                                                                     \
  void function(const Args&);                                                                            \
  }                                                                                                      \
  namespace prestissimo::cpu::avx512 {                                                                   \
  void function(const Args&);                                                                            \
  }                                                                                                      \
  namespace prestissimo::cpu::avx512_bf16 {                                                              \
  void function(const Args&);                                                                            \
  }                                                                                                      \
  namespace prestissimo::cpu {                                                                           \
  inline void function(const Args& a) {                                                                  \
    static constexpr void (*table[])(const Args&) = {scalar::function, avx2::function, avx512::function, \
                                                     avx512_bf16::function};                             \
    table[static_cast<int>(active())](a);                                                                \
  }                                                                                                      \
  }
#else
#define PRESTISSIMO_CPU_KERNEL(function, Args)                 \
  namespace prestissimo::cpu::scalar {                         \
  void function(const Args&);                                  \
  }                                                            \
  namespace prestissimo::cpu {                                 \
  inline void function(const Args& a) { scalar::function(a); } \
  }
#endif
