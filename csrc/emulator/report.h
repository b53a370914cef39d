// SPDX-License-Identifier: Apache-2.0
// What the host lane found wrong in a launch. A finding never stops the launch by itself.
#pragma once
#include <cstddef>
#include <source_location>
#include <string>
#include <vector>

namespace emulator {

// Finds past the first few of a launch are counted only: one bug repeats itself in every block.
class Report {
 public:
  void add(std::string text) {
    if (count_++ < kKept) texts_.push_back(std::move(text));
  }
  void clear() { count_ = 0, texts_.clear(); }
  size_t count() const { return count_; }
  const std::vector<std::string>& texts() const { return texts_; }

 private:
  static constexpr size_t kKept = 8;
  size_t count_ = 0;
  std::vector<std::string> texts_;
};

Report& report();
// Adds the running block and thread, and the source line where there is one.
void found(const std::string& what, std::source_location where = {});

}  // namespace emulator
