// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace prestissimo {

enum class DeviceType : uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int32_t index = 0;
  bool operator==(const Device& o) const { return type == o.type && index == o.index; }
  bool operator!=(const Device& o) const { return !(*this == o); }
};

// A cudaStream_t behind an opaque pointer, so that nothing outside cuda/ needs CUDA's headers; null on the CPU.
struct Stream {
  void* handle = nullptr;
};

}  // namespace prestissimo
