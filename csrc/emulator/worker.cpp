// SPDX-License-Identifier: Apache-2.0
// The host lane as a process: the tests speak to it through a pipe, so that a sanitizer may end it without ending them.
// A request is one command word and its operands, each operand a 64-bit length and that many bytes; so is a reply:
//   allocate  bytes misalign contents|""      -> address
//   read      address bytes                   -> contents
//   free                                      ->
//   options   seed shuffle skew late truncate ->
//   plan      op args                         -> parameter block, "kernel grid block shared\n"...
//   launch    kernel gx gy gz bx by bz shared parameters blocks -> number of findings, their texts
// Numbers are 64-bit little-endian; `blocks` is a list of linear block indices, empty for the whole grid.
// A reply begins with "ok" or "error"; "error" is followed by its text.
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "block.h"
#include "memory.h"
#include "registry.h"
#include "report.h"

namespace emulator {

std::map<std::string, KernelEntry>& kernels() {
  static std::map<std::string, KernelEntry> table;
  return table;
}
std::map<std::string, PlanEntry>& plans() {
  static std::map<std::string, PlanEntry> table;
  return table;
}

namespace {

using Message = std::vector<std::string>;

bool read_exactly(void* p, size_t n) { return std::fread(p, 1, n, stdin) == n; }

bool receive(Message& m) {
  uint64_t fields;
  if (!read_exactly(&fields, sizeof(fields))) return false;
  m.resize(fields);
  for (std::string& f : m) {
    uint64_t n;
    if (!read_exactly(&n, sizeof(n))) return false;
    f.resize(n);
    if (n && !read_exactly(f.data(), n)) return false;
  }
  return true;
}

void send(const Message& m) {
  const auto number = [](uint64_t n) { std::fwrite(&n, sizeof(n), 1, stdout); };
  number(m.size());
  for (const std::string& f : m) {
    number(f.size());
    std::fwrite(f.data(), 1, f.size(), stdout);
  }
  std::fflush(stdout);
}

uint64_t integer(const std::string& field) {
  uint64_t n;
  if (field.size() != sizeof(n)) throw std::runtime_error("a number must have 8 bytes");
  std::memcpy(&n, field.data(), sizeof(n));
  return n;
}
std::string bytes(uint64_t n) { return {reinterpret_cast<const char*>(&n), sizeof(n)}; }

template <class Table>
auto& entry(Table& table, const std::string& name, const char* what) {
  const auto it = table.find(name);
  if (it == table.end()) throw std::runtime_error(std::string("no ") + what + " named " + name);
  return it->second;
}

// Structs are read in place: their bytes must lie aligned.
std::vector<uint64_t> aligned_copy(const std::string& raw, size_t expected, const char* what) {
  if (raw.size() != expected)
    throw std::runtime_error(std::string(what) + " has " + std::to_string(raw.size()) + " bytes, expected " +
                             std::to_string(expected));
  std::vector<uint64_t> words(raw.size() / sizeof(uint64_t) + 1);
  std::memcpy(words.data(), raw.data(), raw.size());
  return words;
}

Message plan(const Message& m) {
  const PlanEntry& p = entry(plans(), m.at(1), "plan");
  const auto args = aligned_copy(m.at(2), p.args_bytes, "args");
  const Planned planned = p.plan(reinterpret_cast<const uint8_t*>(args.data()));
  std::string text;
  for (const PlannedLaunch& l : planned.launches)
    text += l.kernel + " " + std::to_string(l.grid) + " " + std::to_string(l.block) + " " +
            std::to_string(l.shared_bytes) + "\n";
  return {"ok", planned.parameters, text};
}

Message run(const Message& m) {
  const KernelEntry& k = entry(kernels(), m.at(1), "kernel");
  const auto d = [&](int i) { return static_cast<unsigned>(integer(m.at(i))); };
  const auto parameters = aligned_copy(m.at(9), k.parameter_bytes, "the parameter block");
  std::vector<uint64_t> blocks(m.at(10).size() / sizeof(uint64_t));
  if (!blocks.empty()) std::memcpy(blocks.data(), m[10].data(), m[10].size());
  report().clear();
  launch(
      dim3(d(2), d(3), d(4)), dim3(d(5), d(6), d(7)), d(8),
      [&] { k.run(reinterpret_cast<const uint8_t*>(parameters.data())); }, blocks);
  Message reply{"ok", bytes(report().count())};
  for (const std::string& text : report().texts()) reply.push_back(text);
  return reply;
}

Message answer(const Message& m) {
  const std::string& command = m.at(0);
  if (command == "allocate") {
    const std::string& contents = m.at(3);
    const uint64_t n = integer(m.at(1));
    if (!contents.empty() && contents.size() != n) throw std::runtime_error("contents do not have the stated size");
    char* p = allocate_global(n, integer(m.at(2)), contents.empty() ? nullptr : contents.data());
    return {"ok", bytes(reinterpret_cast<uint64_t>(p))};
  }
  if (command == "read") return {"ok", std::string(reinterpret_cast<const char*>(integer(m.at(1))), integer(m.at(2)))};
  if (command == "free") return free_globals(), Message{"ok"};
  if (command == "options") {
    block().options = {integer(m.at(1)), integer(m.at(2)) != 0, integer(m.at(3)) != 0, integer(m.at(4)) != 0,
                       integer(m.at(5)) != 0};
    return {"ok"};
  }
  if (command == "plan") return plan(m);
  if (command == "launch") return run(m);
  throw std::runtime_error("unknown command " + command);
}

}  // namespace
}  // namespace emulator

int main() {
  emulator::Message request;
  while (emulator::receive(request)) {
    try {
      emulator::send(emulator::answer(request));
    } catch (const std::exception& e) {
      emulator::send({"error", e.what()});
    }
  }
}
