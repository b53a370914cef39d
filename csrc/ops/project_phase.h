// SPDX-License-Identifier: Apache-2.0
// phase <- angle of STFT(y), y = ISTFT(exp(log_magnitude) exp(i phase)), `rounds` times: Griffin and Lim 1984.
// ISTFT as in inverse_stft.h; STFT(y)_t = rfft(w y[t hop - n_fft/2 ...]), y being 0 outside [0, T hop).
#pragma once
#include "inverse_stft.h"

namespace prestissimo {

struct ProjectPhaseArgs {
  Frames log_magnitude, phase;  // [B][T][F]
  const float* window;          // [n_fft], Hann's where null
  float* projected;             // [B][T][F]
  float* signal;                // [B][T hop], between the two launches of a round on a GPU, else null
  int64_t batch, frames, n_fft, hop, rounds;
};

namespace cuda {
void project_phase(const ProjectPhaseArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(project_phase, ProjectPhaseArgs)
