// SPDX-License-Identifier: Apache-2.0
// out[b][i] = normal number i of item items[b] under seeds[b]; see philox.h for the format.
#pragma once
#include "../array.h"
#include "../cpu/isa.h"

namespace prestissimo {

struct PhiloxNormalArgs {
  const int64_t* seeds;  // [B], all 64 bits used
  const int64_t* items;  // [B], the low 32 bits used
  uint32_t stream;
  float* out;  // [B, N]
  int64_t batch, size;
};

namespace cuda {
void philox_normal(const PhiloxNormalArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(philox_normal, PhiloxNormalArgs)
