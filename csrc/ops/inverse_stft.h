// SPDX-License-Identifier: Apache-2.0
// X_t[k] = exp(log_magnitude[t][k]) exp(i phase[t][k]),  x_t = irfft(X_t) of n_fft samples,
// y[s] = sum_t w[s - t hop + n_fft/2] x_t[...] / sum_t w[...]^2 for s in [0, T hop): Griffin and Lim 1984, eq. 6, over
// the frames t in [0, T) that reach s; 0 where no window does.
//
// Backward, with g_t[i] = w[i] dy[t hop - n_fft/2 + i] / sum w^2 and R_t = rfft(g_t):
// dlog_magnitude = c Re(X conj R) / n_fft,  dphase = -c Im(X conj R) / n_fft,  c = 1 at 0 Hz and Nyquist, 2 between
#pragma once
#include "../array.h"
#include "../cpu/isa.h"

namespace prestissimo {

// Frames of a spectrogram, stride 1 along F = n_fft / 2 + 1 bins.
struct Frames {
  const float* data;
  int64_t batch_stride, frame_stride;
};

struct InverseStftArgs {
  Frames log_magnitude, phase;  // [B][T][F]
  const float* window;          // [n_fft], Hann's where null
  float* signal;                // [B][T hop]
  int64_t batch, frames, n_fft, hop;
};

struct InverseStftBackwardArgs {
  InverseStftArgs forward;         // signal unused
  const float* dsignal;            // [B][T hop]
  float *dlog_magnitude, *dphase;  // [B][T][F], null where not wanted
};

// Sizes that the kernels take: powers of two, at least one sample of a row in every plane (cpu/overlap_add.h).
constexpr bool frames_are_taken(int64_t n_fft, int64_t hop) {
  const int64_t planes = n_fft <= 512 ? 2 : n_fft / 256;
  return n_fft >= 8 && n_fft <= 4096 && (n_fft & (n_fft - 1)) == 0 && hop >= planes && 2 * hop <= n_fft &&
         n_fft % hop == 0;
}
// "n_fft must be ..., got ..." where they do not.
void check_frames(const char* op, int64_t bins, int64_t hop);
// The address of the checked window, null where there is none.
const float* window_of(const Checker&, const Array* window, int64_t bins);

namespace cuda {
void inverse_stft(const InverseStftArgs&, Stream);
void inverse_stft_backward(const InverseStftBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(inverse_stft, InverseStftArgs)
PRESTISSIMO_CPU_KERNEL(inverse_stft_backward, InverseStftBackwardArgs)
