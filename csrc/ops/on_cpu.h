// SPDX-License-Identifier: Apache-2.0
// For ops without a CUDA kernel: a call on a GPU array never falls back in silence.
#pragma once
#include <string>

#include "../array.h"

namespace prestissimo {

inline void only_on_cpu(const char* op, const Array& a) {
  if (a.device.type == DeviceType::cuda)
    throw Unavailable(std::string(op) + ": has no CUDA kernel yet; `reference` runs on every device");
}

}  // namespace prestissimo
