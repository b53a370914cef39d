// SPDX-License-Identifier: Apache-2.0
// One step of a diffusion sampler in one pass over the latent, guidance and preconditioning folded in:
//
// g = c + (w - 1)(c - u)               guidance; g = c without u
// D = out g + skip x                   the clean latent, whatever the network predicts
// D = D (phi std(D_c) / std(D) + 1 - phi),  D_c = out c + skip x,  std over channels; with u and phi > 0 only
// y = a D + b x + p previous + n z     z of renoise.h
//
// A weight of zero is a term that is not there (0 * inf makes no NaN), and an array whose weights are all zero is not
// read. Backward, with e = a dy + dD:
// dD_raw = e k + (gradient of k, the factor of D),  dx = b dy + skip (dD_raw + dD_c),  dc = out (w dD_raw + dD_c),
// du = -out (w - 1) dD_raw,  dprevious = p dy.
#pragma once
#include "../cpu/isa.h"
#include "renoise.h"

namespace prestissimo {

struct StepWeights {
  float guidance;  // w - 1
  float rescale;   // phi
  float skip, out;
  float denoised, x, previous, noise;  // a, b, p, n
};

// Below this a standard deviation counts as this.
constexpr float kLeastDeviation = 1e-12f;

struct SamplerStepArgs {
  Samples x, conditional, unconditional, previous;  // data null where absent or not needed
  SamplesOut y, denoised;                           // denoised: data null when not wanted
  FrameNoise noise;
  StepWeights weights;
  int64_t batch, channels, frames;  // without rescale and noise only the product of the last two matters
  DType dtype;

  bool rescaled() const { return unconditional.data && weights.rescale != 0; }
};

struct SamplerStepBackwardArgs {
  Samples dy, ddenoised;                                   // ddenoised: data null when there is none
  Samples x, conditional, unconditional;                   // as forward, for rescaled steps only
  SamplesOut dx, dconditional, dunconditional, dprevious;  // data null when not wanted
  StepWeights weights;
  int64_t batch, channels, frames;
  DType dtype;

  bool rescaled() const { return unconditional.data; }
};

namespace cuda {
void sampler_step(const SamplerStepArgs&, Stream);
void sampler_step_backward(const SamplerStepBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(sampler_step, SamplerStepArgs)
PRESTISSIMO_CPU_KERNEL(sampler_step_backward, SamplerStepBackwardArgs)
