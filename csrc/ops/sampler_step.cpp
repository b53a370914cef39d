// SPDX-License-Identifier: Apache-2.0
#include "sampler_step.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

StepWeights step_weights(double guidance, double rescale, double skip, double out, double denoised, double x,
                         double previous, double noise) {
  const auto f = [](double v) { return static_cast<float>(v); };
  return {f(guidance), f(rescale), f(skip), f(out), f(denoised), f(x), f(previous), f(noise)};
}

// Channels are dimension 1; everything behind them is frames.
template <class Args>
void set_sizes(Args& a, const Array& x) {
  a.batch = x.size(0);
  a.channels = x.ndim > 1 ? x.size(1) : 1;
  a.frames = a.channels ? sample_size(x) / a.channels : 0;
  a.dtype = x.dtype;
}

void check_dimensions(const char* op, const Array& x, bool rescaled, bool noise) {
  if (noise && x.ndim != 3) fail(op, "x must have 3 dimensions for noise, got shape " + shape_text(x));
  if (rescaled && x.ndim < 2) fail(op, "x must have at least 2 dimensions for rescale, got shape " + shape_text(x));
}

void sampler_step(Stream stream, const Array& x, const Array& prediction, const Array* unconditional,
                  const Array* previous, const Array* seeds, const Array* items, int64_t stream_number, double guidance,
                  double rescale, double skip, double out, double denoised_weight, double x_weight,
                  double previous_weight, double noise_weight, const Array& y, const Array* denoised) {
  constexpr const char* op = "sampler_step";
  const LatentChecker check(op, "x", x);
  check.like("prediction", prediction).like("unconditional", unconditional).like("previous", previous);
  check.like("y", y).like("denoised", denoised);
  SamplerStepArgs a{};
  a.weights = step_weights(guidance, rescale, skip, out, denoised_weight, x_weight, previous_weight, noise_weight);
  a.noise = frame_noise(op, check, seeds, items, stream_number);
  if (a.weights.noise == 0) a.noise = {};
  if (a.weights.noise != 0 && !seeds) fail(op, "seeds must be given for a step that adds noise");
  a.conditional = samples(prediction);
  if (a.weights.guidance != 0) a.unconditional = samples(unconditional);
  if (a.weights.x != 0 || a.weights.skip != 0) a.x = samples(x);
  if (a.weights.previous != 0) a.previous = samples(previous);
  a.y = samples_out(y);
  a.denoised = samples_out(denoised);
  set_sizes(a, x);
  check_dimensions(op, x, a.rescaled(), a.noise.seeds);
  if (x.numel() == 0) return;
  PRESTISSIMO_RUN(sampler_step, x, a, stream);
}

void sampler_step_backward(Stream stream, const Array& dy, const Array* ddenoised, const Array* x,
                           const Array* prediction, const Array* unconditional, double guidance, double rescale,
                           double skip, double out, double denoised_weight, double x_weight, double previous_weight,
                           double noise_weight, const Array* dx, const Array* dprediction, const Array* dunconditional,
                           const Array* dprevious) {
  constexpr const char* op = "sampler_step_backward";
  const LatentChecker check(op, "dy", dy);
  check.like("ddenoised", ddenoised).like("x", x).like("prediction", prediction).like("unconditional", unconditional);
  check.like("dx", dx).like("dprediction", dprediction).like("dunconditional", dunconditional);
  check.like("dprevious", dprevious);
  if (unconditional && !prediction) fail(op, "prediction must come with unconditional");
  SamplerStepBackwardArgs a{};
  a.weights = step_weights(guidance, rescale, skip, out, denoised_weight, x_weight, previous_weight, noise_weight);
  a.dy = samples(dy);
  a.ddenoised = samples(ddenoised);
  if (a.weights.skip != 0) a.x = samples(x);
  a.conditional = samples(prediction);
  a.unconditional = samples(unconditional);
  a.dx = samples_out(dx);
  a.dconditional = samples_out(dprediction);
  a.dunconditional = samples_out(dunconditional);
  a.dprevious = samples_out(dprevious);
  set_sizes(a, dy);
  check_dimensions(op, dy, a.rescaled(), false);
  if (dy.numel() == 0) return;
  PRESTISSIMO_RUN(sampler_step_backward, dy, a, stream);
}

}  // namespace

PRESTISSIMO_OP(sampler_step, "x", "prediction", "unconditional", "previous", "seeds", "items", "stream", "guidance",
               "rescale", "skip", "out", "denoised_weight", "x_weight", "previous_weight", "noise_weight", "y",
               "denoised")
PRESTISSIMO_OP(sampler_step_backward, "dy", "ddenoised", "x", "prediction", "unconditional", "guidance", "rescale",
               "skip", "out", "denoised_weight", "x_weight", "previous_weight", "noise_weight", "dx", "dprediction",
               "dunconditional", "dprevious")

}  // namespace prestissimo
