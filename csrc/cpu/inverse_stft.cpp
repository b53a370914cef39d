// SPDX-License-Identifier: Apache-2.0
#include "../ops/inverse_stft.h"

#include "frame_workspace.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Rows [begin, end) of item b.
void synthesise(const InverseStftArgs& a, FrameWorkspace& w, int64_t b, int64_t begin, int64_t end) {
  const Framing& f = w.framing;
  const int64_t half = f.overlap / 2;
  SignalRing ring(f, w.rings);
  ring.reset();
  RowScale scale(f, w.window, a.frames, w.scales);
  for (int64_t t = begin - half + 1 > 0 ? begin - half + 1 : 0; t < end + half; ++t) {
    const int64_t row = t - half;  // complete after this frame
    const float* by = scale.of(row < 0 ? 0 : row);
    if (t < a.frames) {
      spectrum_of(row_of(a.log_magnitude, b, t), row_of(a.phase, b, t), a.n_fft / 2 + 1, w.re, w.im);
      w.transform.samples(w.re, w.im, w.planes);
      ring.add(t, w.planes, w.window, by);
    } else {
      ring.scale(row, by);
    }
    if (row >= begin) join_row(f, ring.row(row), ring.stride(), a.signal + (b * a.frames + row) * a.hop);
  }
}

// Frames [begin, end) of item b.
void differentiate(const InverseStftBackwardArgs& a, FrameWorkspace& w, int64_t b, int64_t begin, int64_t end) {
  const InverseStftArgs& forward = a.forward;
  const Framing& f = w.framing;
  const int64_t half = f.overlap / 2, bins = forward.n_fft / 2 + 1;
  SignalRing ring(f, w.rings);
  ring.reset();
  RowScale scale(f, w.window, forward.frames, w.scales);
  for (int64_t row = begin - half; row < end + half - 1; ++row) {
    if (row < 0 || row >= forward.frames) {
      ring.clear(row);
    } else {
      split_row(f, a.dsignal + (b * forward.frames + row) * forward.hop, ring.stride(), ring.row(row));
      ring.scale(row, scale.of(row));
    }
    const int64_t t = row - half + 1;  // all its rows are there
    if (t < begin) continue;
    ring.frame(t, w.window, w.planes);
    w.transform.spectrum(w.planes, w.re, w.im);  // 2 R / n_fft, but that scale holds the n_fft
    const float *log_magnitude = row_of(forward.log_magnitude, b, t), *phase = row_of(forward.phase, b, t);
    w.re[0] *= 0.5f, w.im[0] *= 0.5f;
    w.re[bins - 1] *= 0.5f, w.im[bins - 1] *= 0.5f;
    const int64_t at = (b * forward.frames + t) * bins;
    const auto bin = [&](int64_t k, int n) {
      Vec s, c;
      sin_cos(load(phase + k, n), s, c);
      const Vec m = exp(load(log_magnitude + k, n)), x = m * c, y = m * s, r = load(w.re + k, n), i = load(w.im + k, n);
      if (a.dlog_magnitude) store(a.dlog_magnitude + at + k, fma(x, r, y * i), n);
      if (a.dphase) store(a.dphase + at + k, x * i - y * r, n);
    };
    for_lanes(bins, [&](int64_t k) { bin(k, Vec::lanes); }, bin);
  }
}

}  // namespace

void inverse_stft(const InverseStftArgs& a) {
  for_frames(a.batch, a.frames, a.n_fft, a.hop, 1, a.window,
             [&](FrameWorkspace& w, int64_t b, int64_t begin, int64_t end) { synthesise(a, w, b, begin, end); });
}

void inverse_stft_backward(const InverseStftBackwardArgs& a) {
  const InverseStftArgs& f = a.forward;
  for_frames(f.batch, f.frames, f.n_fft, f.hop, 1, f.window,
             [&](FrameWorkspace& w, int64_t b, int64_t begin, int64_t end) { differentiate(a, w, b, begin, end); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
