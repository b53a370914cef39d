// SPDX-License-Identifier: Apache-2.0
// y = c + (w - 1)(c - u),  then y = y (phi std(c) / std(y) + 1 - phi): a sampler step that ends at the denoised
// estimate, and so its kernel.
#include "../registry.h"
#include "dispatch.h"
#include "sampler_step.h"

namespace prestissimo {
namespace {

void cfg_combine(Stream stream, const Array& conditional, const Array& unconditional, double scale, double rescale,
                 const Array& y) {
  constexpr const char* op = "cfg_combine";
  LatentChecker(op, "conditional", conditional).like("unconditional", unconditional).like("y", y);
  if (!(rescale >= 0 && rescale <= 1)) fail(op, "rescale must be in [0, 1], got " + std::to_string(rescale));
  if (rescale != 0 && conditional.ndim < 2)
    fail(op, "conditional must have at least 2 dimensions for rescale, got shape " + shape_text(conditional));
  SamplerStepArgs a{};
  a.weights.guidance = static_cast<float>(scale - 1);
  a.weights.rescale = static_cast<float>(rescale);
  a.weights.out = a.weights.denoised = 1;
  a.conditional = samples(conditional);
  if (a.weights.guidance != 0) a.unconditional = samples(unconditional);
  a.y = samples_out(y);
  a.batch = y.size(0);
  a.channels = y.ndim > 1 ? y.size(1) : 1;
  a.frames = a.channels ? sample_size(y) / a.channels : 0;
  a.dtype = y.dtype;
  if (y.numel() == 0) return;
  PRESTISSIMO_RUN(sampler_step, y, a, stream);
}

}  // namespace

PRESTISSIMO_OP(cfg_combine, "conditional", "unconditional", "scale", "rescale", "y")

}  // namespace prestissimo
