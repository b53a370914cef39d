// SPDX-License-Identifier: Apache-2.0
// phase[t][j] = phase[t-1][k] + 2 pi hop / n_fft (k + p) + pi (j - k),  n_fft = 2 (F - 1)
//
// Bin j rises where j + 1 is larger. A peak k does not rise after a bin that does; a region starts at a bin that rises
// after one that does not: it holds one peak, and j lies in the region of k. p is the vertex of the parabola through
// the peak and its neighbours, in [-1/2, 1/2], 0 at both ends of the spectrum.
// Phases are kept as 32-bit fractions of a turn: sums wrap by themselves and gather no rounding error, so that every
// device and the reference agree in all bits.
#pragma once
#include "../array.h"
#include "../cpu/isa.h"

namespace prestissimo {

struct PeakPhaseArgs {
  const float* log_magnitude;          // [B][T][F], stride 1 along F
  int64_t batch_stride, frame_stride;  // of log_magnitude
  const int32_t* state;                // [B][F], turns of the frame before the first; zeros where null
  float* phase;                        // [B][T][F], radians
  int32_t* next_state;                 // [B][F], turns of the last frame
  int32_t* sources;                    // [B][T][F], the peak of each bin: between two kernels on a GPU, else null
  int64_t batch, frames, bins, hop;
};

namespace cuda {
void peak_phase(const PeakPhaseArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(peak_phase, PeakPhaseArgs)
