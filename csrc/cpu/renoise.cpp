// SPDX-License-Identifier: Apache-2.0
#include "../ops/renoise.h"

#include "frame_noise.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Rounded once on every ISA: the same bits everywhere is what this op promises.
template <class V>
V exact_fma(V a, V b, V c) {
  if constexpr (V::lanes == 1)
    return {fma(a.v, b.v, c.v)};
  else
    return fma(a, b, c);
}

template <class T>
void run(const RenoiseArgs& a) {
  for_frame_tiles(a.batch, a.frames, a.frames, [&](int64_t b, int64_t t0, int64_t width) {
    const NoiseKey key(a.noise, b);
    const Vec sigma = broadcast(a.sigma[b]);
    NoiseTile tile;
    for (int64_t c = 0; c < a.channels; c += 4) {
      for (int64_t t = t0; t < t0 + width; t += kNoiseFrames) {
        const int n = static_cast<int>(t0 + width - t < kNoiseFrames ? t0 + width - t : kNoiseFrames);
        frame_noise(tile, key, a.channels, c, t, n);
        for (int w = 0; w < 4 && c + w < a.channels; ++w) {
          const T* x = sample<T>(a.x, b) + (c + w) * a.frames + t;
          T* y = sample<T>(a.y, b) + (c + w) * a.frames + t;
          const auto value = [&](int64_t i, int k) { return exact_fma(sigma, load(tile.z[w] + i, k), load(x + i, k)); };
          for_lanes(
              n, [&](int64_t i) { store(y + i, value(i, Vec::lanes)); },
              [&](int64_t i, int k) { store(y + i, value(i, k), k); });
        }
      }
    }
  });
}

}  // namespace

void renoise(const RenoiseArgs& a) {
  with_type(a.dtype, [&](auto type) { run<decltype(type)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
