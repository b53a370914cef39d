// SPDX-License-Identifier: Apache-2.0
// Memory for the length of a call, kept by its thread for the next one: no allocation after the first call.
#pragma once
#include <cstddef>
#include <cstdint>

#include "parallel.h"

namespace prestissimo::cpu {

// Aligned to 64 bytes, not initialised; null where memory ran out. Given back in the reverse order of taking, by the
// same thread. What a thread keeps is the most that it ever had in use at once, up to kKeptBytes.
constexpr int64_t kKeptBytes = int64_t{256} << 20;
void* take_scratch(int64_t bytes);
void give_scratch(void* memory);

#ifdef PRESTISSIMO_ISA
namespace PRESTISSIMO_ISA {

class Scratch {
 public:
  explicit Scratch(int64_t bytes) : memory_(take_scratch(bytes)) {}
  ~Scratch() { give_scratch(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ready() const { return memory_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_);
  }
  // For the calling thread, which may throw; inside a parallel region ask ready().
  template <class T>
  T* need() const {
    if (!memory_) out_of_memory();
    return as<T>();
  }

 private:
  void* memory_;
};

}  // namespace PRESTISSIMO_ISA
#endif

}  // namespace prestissimo::cpu
