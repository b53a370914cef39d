// SPDX-License-Identifier: Apache-2.0
// The noise of ops/renoise.h, four channels of up to kNoiseFrames frames at a time. Plain loops over frames, which the
// compiler vectorises for each ISA.
#pragma once
#include "../ops/renoise.h"
#define PRESTISSIMO_PHILOX_NAMESPACE prestissimo::cpu::PRESTISSIMO_ISA
#include "../philox.h"
#include "samples.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

constexpr int kNoiseFrames = 64;
constexpr int kNoiseStep = 16;  // frames are drawn in whole steps: no scalar remainders

struct NoiseTile {
  float z[4][kNoiseFrames];
};

struct NoiseKey {
  uint32_t key0, key1, item, stream;

  NoiseKey(const FrameNoise& n, int64_t b)
      : key0(static_cast<uint32_t>(n.seeds[b])),
        key1(static_cast<uint32_t>(static_cast<uint64_t>(n.seeds[b]) >> 32)),
        item(static_cast<uint32_t>(n.items[b])),
        stream(n.stream) {}
};

// The four numbers of counter (4-number block) first(k), for frames k.
template <class First>
void draw(NoiseTile& tile, const NoiseKey& key, int frames, const First& first) {
  for (int k = 0; k < frames; ++k) {
    const uint64_t n = first(k);
    const Words w = philox4x32_10({static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), key.item, key.stream},
                                  key.key0, key.key1);
    const Normals p = box_muller(w.w0, w.w1), q = box_muller(w.w2, w.w3);
    tile.z[0][k] = p.z0;
    tile.z[1][k] = p.z1;
    tile.z[2][k] = q.z0;
    tile.z[3][k] = q.z1;
  }
}

// tile.z[w][k] = the noise of channel c + w at frame t + k, for k < n <= kNoiseFrames; c is a multiple of 4.
inline void frame_noise(NoiseTile& tile, const NoiseKey& key, int64_t channels, int64_t c, int64_t t, int n) {
  const int frames = (n + kNoiseStep - 1) / kNoiseStep * kNoiseStep;
  const uint64_t C = static_cast<uint64_t>(channels), start = static_cast<uint64_t>(t) * C + static_cast<uint64_t>(c);
  if (channels % 4 == 0) {
    const uint64_t first = start / 4, step = C / 4;
    return draw(tile, key, frames, [=](int k) { return first + static_cast<uint64_t>(k) * step; });
  }
  // The numbers of a frame straddle two counters: draw both, then shift.
  NoiseTile next;
  draw(tile, key, frames, [=](int k) { return (start + static_cast<uint64_t>(k) * C) / 4; });
  if (channels > 1) draw(next, key, frames, [=](int k) { return (start + static_cast<uint64_t>(k) * C) / 4 + 1; });
  for (int k = 0; k < n; ++k) {
    const unsigned shift = static_cast<unsigned>((start + static_cast<uint64_t>(k) * C) % 4);
    const float v[8] = {tile.z[0][k], tile.z[1][k], tile.z[2][k], tile.z[3][k],
                        next.z[0][k], next.z[1][k], next.z[2][k], next.z[3][k]};
    for (unsigned w = 0; w < 4; ++w) tile.z[w][k] = v[shift + w];
  }
}

// body(b, t, n) on tiles of frames that cover every sample: at most `most` frames wide, and wide enough to be worth it,
// else so many that every thread has some. The widths follow the number of threads, so no sum may run along a tile.
template <class Body>
void for_frame_tiles(int64_t batch, int64_t frames, int64_t most, const Body& body) {
  const int64_t wanted = (2 * max_threads() + batch - 1) / batch;
  int64_t width = (frames + wanted - 1) / wanted;
  width = (width + kNoiseStep - 1) / kNoiseStep * kNoiseStep;
  if (width < kNoiseFrames) width = kNoiseFrames;
  if (width > most) width = most;
  const int64_t tiles = (frames + width - 1) / width;
  parallel_for(batch * tiles, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t t = i % tiles * width;
      body(i / tiles, t, t + width < frames ? width : frames - t);
    }
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
