// SPDX-License-Identifier: Apache-2.0
#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "../array.h"

namespace prestissimo::cpu {

const char* name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512_bf16: return "avx512_bf16";
  }
  return "?";
}

bool supported(Isa isa) {
#if PRESTISSIMO_X86
  // __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
  switch (isa) {
    case Isa::scalar: return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return supported(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::avx512_bf16:
      return supported(Isa::avx512) && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  }
  return false;
#else
  return isa == Isa::scalar;
#endif
}

namespace {

Isa widest() {
  Isa found = Isa::scalar;
  for (Isa isa : kIsas)
    if (supported(isa)) found = isa;
  return found;
}

Isa parse(std::string_view text) {
  if (text.empty()) return widest();
  for (Isa isa : kIsas) {
    if (text != name(isa)) continue;
    if (!supported(isa)) throw ArgumentError("isa: this processor has no " + std::string(text));
    return isa;
  }
  throw ArgumentError("isa must be scalar, avx2, avx512 or avx512_bf16, got '" + std::string(text) + "'");
}

std::atomic<int>& chosen() {
  static std::atomic<int> isa(static_cast<int>(widest()));
  return isa;
}

}  // namespace

Isa active() { return static_cast<Isa>(chosen().load(std::memory_order_relaxed)); }

void force(std::string_view text) { chosen().store(static_cast<int>(parse(text))); }

}  // namespace prestissimo::cpu
