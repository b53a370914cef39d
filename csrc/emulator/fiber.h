// SPDX-License-Identifier: Apache-2.0
// One CUDA thread is one fiber: a stack of its own on the one OS thread. A switch saves the callee-saved registers of
// the System V x86-64 convention and changes the stack pointer; AddressSanitizer is told about it.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#error "the CUDA host lane switches stacks with x86-64 code; it has no other port"
#endif

namespace emulator {

class Fiber {
 public:
  static constexpr size_t kStackBytes = size_t{256} << 10;

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // Ready to run entry() from its beginning; entry must never return, it ends by a last suspend().
  void prepare(void (*entry)());
  void resume();          // from the scheduler into this fiber
  void suspend();         // from this fiber back to the scheduler
  static void started();  // first statement of entry()

 private:
  void* stack_pointer_ = nullptr;
  char* stack_ = nullptr;
  void* sanitizer_state_ = nullptr;
};

}  // namespace emulator
