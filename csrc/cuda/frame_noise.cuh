// SPDX-License-Identifier: Apache-2.0
// The noise of ops/renoise.h on the device: a thread draws four channels of one frame, neighbouring threads
// neighbouring frames, so that rows are read and written side by side.
#pragma once
#include "../ops/renoise.h"
#include "../philox.h"
#include "samples.cuh"

namespace prestissimo::cuda {

// Which sample, channels c .. c + 3 and frame are this thread's; t may lie behind the last frame.
struct NoiseShare {
  int64_t b, c, t;

  PRESTISSIMO_DEVICE NoiseShare(int64_t b_, int64_t c_, int64_t t_) : b(b_), c(c_), t(t_) {}
  PRESTISSIMO_DEVICE NoiseShare(int64_t channels, int64_t frames) {
    const uint32_t tiles = static_cast<uint32_t>((frames + kNoiseThreads - 1) / kNoiseThreads);
    const uint32_t groups = static_cast<uint32_t>((channels + 3) / 4);
    const uint32_t row = blockIdx.x / tiles;
    t = static_cast<int64_t>(blockIdx.x % tiles) * kNoiseThreads + threadIdx.x;
    c = 4 * static_cast<int64_t>(row % groups);
    b = row / groups;
  }
};

PRESTISSIMO_DEVICE void draw(const FrameNoise& noise, int64_t b, uint64_t counter, float (&z)[4]) {
  const uint64_t seed = static_cast<uint64_t>(noise.seeds[b]);
  const philox::Words w = philox::philox4x32_10({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                                                 static_cast<uint32_t>(noise.items[b]), noise.stream},
                                                static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const philox::Normals p = philox::box_muller(w.w0, w.w1), q = philox::box_muller(w.w2, w.w3);
  z[0] = p.z0;
  z[1] = p.z1;
  z[2] = q.z0;
  z[3] = q.z1;
}

// z[w] = the noise of channel c + w at frame t; c is a multiple of 4.
PRESTISSIMO_DEVICE void frame_noise(const FrameNoise& noise, const NoiseShare& at, int64_t channels, float (&z)[4]) {
  const uint64_t number = static_cast<uint64_t>(at.t) * channels + at.c;
  draw(noise, at.b, number / 4, z);
  const unsigned shift = number % 4;
  if (channels % 4 == 0) return;
  // The four straddle two counters: shift by selects, since registers have no index.
  float next[4];
  draw(noise, at.b, number / 4 + 1, next);
  if (shift & 1) {
    z[0] = z[1];
    z[1] = z[2];
    z[2] = z[3];
    z[3] = next[0];
    next[0] = next[1];
    next[1] = next[2];
  }
  if (shift & 2) {
    z[0] = z[2];
    z[1] = z[3];
    z[2] = next[0];
    z[3] = next[1];
  }
}

}  // namespace prestissimo::cuda
