// SPDX-License-Identifier: Apache-2.0
// y = x + sigma z,  x [B, C, T], sigma for each sample, the product and the sum rounded once.
// z[b][c][t] is normal number t C + c of item items[b] under seeds[b] (philox.h): drawn frame by frame, so that a
// longer latent begins with the same noise.
#pragma once
#include "../cpu/isa.h"
#include "samples.h"

namespace prestissimo {

// The noise of a batch of latents.
struct FrameNoise {
  const int64_t* seeds = nullptr;  // [B], all 64 bits used; null where there is no noise
  const int64_t* items = nullptr;  // [B], the low 32 bits used
  uint32_t stream = 0;
};

struct RenoiseArgs {
  Samples x;
  SamplesOut y;
  const float* sigma;  // [B]
  FrameNoise noise;
  int64_t batch, channels, frames;
  DType dtype;
};

// Checks that seeds and items, both or neither, fit the samples of x.
inline FrameNoise frame_noise(const char* op, const LatentChecker& check, const Array* seeds, const Array* items,
                              int64_t stream) {
  if (!seeds != !items) fail(op, std::string(seeds ? "items" : "seeds") + " must come with the other");
  check.per_sample("seeds", seeds, DType::int64).per_sample("items", items, DType::int64);
  if (stream < 0 || stream > 0xffffffffLL) fail(op, "stream must be in [0, 2^32), got " + std::to_string(stream));
  if (!seeds) return {};
  return {seeds->as<int64_t>(), items->as<int64_t>(), static_cast<uint32_t>(stream)};
}

namespace cuda {
void renoise(const RenoiseArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(renoise, RenoiseArgs)
