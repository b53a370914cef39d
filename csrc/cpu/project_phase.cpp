// SPDX-License-Identifier: Apache-2.0
#include "../ops/project_phase.h"

#include "frame_workspace.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// The spectrum of a frame, brought to its magnitudes. |X|^2 is kept off 0, where X has no phase.
void set_magnitudes(const float* log_magnitude, int64_t bins, float* re, float* im) {
  const auto bin = [&](int64_t k, int n) {
    const Vec r = load(re + k, n), i = load(im + k, n);
    const Vec gain = exp(load(log_magnitude + k, n)) * rsqrt(max(broadcast(1e-30f), fma(r, r, i * i)));
    store(re + k, r * gain, n);
    store(im + k, i * gain, n);
  };
  for_lanes(bins, [&](int64_t k) { bin(k, Vec::lanes); }, bin);
}

void phase_of(const float* re, const float* im, int64_t bins, float* out) {
  const auto bin = [&](int64_t k, int n) { store(out + k, angle(load(re + k, n), load(im + k, n)), n); };
  for_lanes(bins, [&](int64_t k) { bin(k, Vec::lanes); }, bin);
}

// Frames [begin, end) of item b, all rounds in one sweep: round r is overlap - 1 frames behind the round before it,
// and nothing but a ring of samples lies between two rounds.
void project(const ProjectPhaseArgs& a, FrameWorkspace& w, int64_t b, int64_t begin, int64_t end) {
  const Framing& f = w.framing;
  const int64_t T = a.frames, bins = a.n_fft / 2 + 1, half = f.overlap / 2, lag = f.overlap - 1, reach = a.rounds * lag;
  RowScale scale(f, w.window, T, w.scales);
  for (int64_t r = 0; r < a.rounds; ++r) SignalRing(f, w.rings + r * 2 * a.n_fft).reset();
  const int64_t start = begin - reach > 0 ? begin - reach : 0;
  // the first frame that round r gets whole: frames before 0 are none, frames before `start` are not made here
  const auto first = [&](int64_t r) { return start > 0 ? start + r * lag : 0; };
  for (int64_t step = start; step < end + reach; ++step) {
    for (int64_t r = 0; r < a.rounds; ++r) {
      SignalRing ring(f, w.rings + r * 2 * a.n_fft);
      const int64_t in = step - r * lag, out = in - lag, row = in - half;  // complete after this frame
      if (in < first(r)) break;
      const bool inside = row >= 0 && row < T;
      if (in < T) {
        if (r == 0)
          spectrum_of(row_of(a.log_magnitude, b, in), row_of(a.phase, b, in), bins, w.re, w.im);
        else
          set_magnitudes(row_of(a.log_magnitude, b, in), bins, w.re, w.im);
        w.transform.samples(w.re, w.im, w.planes);
        ring.add(in, w.planes, w.window, scale.of(inside ? row : 0));
      } else if (inside) {
        ring.scale(row, scale.of(row));
      }
      if (!inside) ring.clear(row);
      if (out < first(r + 1)) break;
      if (out >= T) continue;
      ring.frame(out, w.window, w.planes);
      w.transform.spectrum(w.planes, w.re, w.im);
      if (r + 1 == a.rounds && out >= begin) phase_of(w.re, w.im, bins, a.projected + (b * T + out) * bins);
    }
  }
}

}  // namespace

void project_phase(const ProjectPhaseArgs& a) {
  for_frames(a.batch, a.frames, a.n_fft, a.hop, a.rounds, a.window,
             [&](FrameWorkspace& w, int64_t b, int64_t begin, int64_t end) { project(a, w, b, begin, end); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
