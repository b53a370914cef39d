// SPDX-License-Identifier: Apache-2.0
// How the worker finds kernels and launch plans by name.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace emulator {

// Parameters as a CUDA launch lays them out: each aligned to its own size in one block of bytes.
using Kernel = std::function<void(const uint8_t* parameters)>;

struct KernelEntry {
  Kernel run;
  size_t parameter_bytes;
};
std::map<std::string, KernelEntry>& kernels();

struct PlannedLaunch {
  std::string kernel;
  uint32_t grid, block, shared_bytes;
};
struct Planned {
  std::vector<PlannedLaunch> launches;
  std::string parameters;  // the parameter block of each of them
};
struct PlanEntry {
  std::function<Planned(const uint8_t* args)> plan;
  size_t args_bytes;
};
std::map<std::string, PlanEntry>& plans();

template <class... A>
bool register_kernel(const char* name, void (*function)(A...)) {
  constexpr size_t n = sizeof...(A);
  std::vector<size_t> offsets;
  size_t at = 0;
  ((at = (at + alignof(A) - 1) / alignof(A) * alignof(A), offsets.push_back(at), at += sizeof(A)), ...);
  kernels()[name] = {[function, offsets](const uint8_t* p) {
                       [&]<size_t... I>(std::index_sequence<I...>) {
                         function(*reinterpret_cast<const A*>(p + offsets[I])...);
                       }(std::make_index_sequence<n>{});
                     },
                     at};
  return true;
}

template <class Args, class Plan>
bool register_plan(const char* name, Plan plan) {
  plans()[name] = {[plan](const uint8_t* args) { return plan(*reinterpret_cast<const Args*>(args)); }, sizeof(Args)};
  return true;
}

}  // namespace emulator
