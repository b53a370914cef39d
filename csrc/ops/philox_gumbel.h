// SPDX-License-Identifier: Apache-2.0
// out[b][i] = Gumbel variate i of item items[b] under seeds[b]: of the words that philox_normal turns into normals, one
// each; see philox.h for the format.
#pragma once
#include "../array.h"
#include "../cpu/isa.h"

namespace prestissimo {

struct PhiloxGumbelArgs {
  const int64_t* seeds;  // [B], all 64 bits used
  const int64_t* items;  // [B], the low 32 bits used
  uint32_t stream;
  float* out;  // [B, N]
  int64_t batch, size;
};

namespace cuda {
void philox_gumbel(const PhiloxGumbelArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(philox_gumbel, PhiloxGumbelArgs)
