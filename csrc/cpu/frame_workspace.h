// SPDX-License-Identifier: Apache-2.0
// What one thread needs for a share of the frames of a batch, and the split of the frames over threads. No sum crosses
// the split: a thread makes the frames around its share again, in the same order.
#pragma once
#include "../ops/inverse_stft.h"
#include "angles.h"
#include "overlap_add.h"
#include "parallel.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

inline const float* row_of(const Frames& f, int64_t b, int64_t t) {
  return f.data + b * f.batch_stride + t * f.frame_stride;
}

struct FrameWorkspace {
  Framing framing;
  FrameScratch memory;
  RealTransform transform;
  float *window = nullptr, *scales = nullptr, *planes = nullptr, *re = nullptr, *im = nullptr, *rings = nullptr;

  FrameWorkspace(int64_t n_fft, int64_t hop, int64_t ring_count, const float* natural_window,
                 const FourierTables& tables)
      : framing(n_fft, hop),
        memory((2 + 2 * ring_count) * n_fft + 2 * hop + 2 * kSpectrumFloats + 96),
        transform(tables) {
    if (!memory.ready()) return;
    window = memory.take(n_fft);
    scales = memory.take(2 * hop);
    planes = memory.take(n_fft);
    re = memory.take(kSpectrumFloats);
    im = memory.take(kSpectrumFloats);
    rings = memory.take(2 * ring_count * n_fft);
    window_planes(framing, tables, natural_window, window);
  }
};

// re + i im = exp(log_magnitude) exp(i phase)
inline void spectrum_of(const float* log_magnitude, const float* phase, int64_t bins, float* re, float* im) {
  const auto bin = [&](int64_t k, int n) {
    Vec s, c;
    sin_cos(load(phase + k, n), s, c);
    const Vec m = exp(load(log_magnitude + k, n));
    store(re + k, m * c, n);
    store(im + k, m * s, n);
  };
  for_lanes(bins, [&](int64_t k) { bin(k, Vec::lanes); }, bin);
}

// Calls body(workspace, item, first, last) on ranges of frames that cover every item.
template <class Body>
void for_frames(int64_t batch, int64_t frames, int64_t n_fft, int64_t hop, int64_t ring_count, const float* window,
                const Body& body) {
  constexpr int64_t kGrain = 16;
  const FourierTables& tables = fourier_tables(n_fft);
  bool failed = false;
  parallel_for(batch * frames, kGrain, [&](int64_t begin, int64_t end) {
    FrameWorkspace w(n_fft, hop, ring_count, window, tables);
    if (!w.memory.ready()) {
      __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      return;
    }
    while (begin < end) {
      const int64_t b = begin / frames, first = begin % frames;
      const int64_t last = end - b * frames < frames ? end - b * frames : frames;
      body(w, b, first, last);
      begin = b * frames + last;
    }
  });
  if (failed) out_of_memory();
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
