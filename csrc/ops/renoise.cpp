// SPDX-License-Identifier: Apache-2.0
#include "renoise.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void renoise(Stream stream, const Array& x, const Array& sigma, const Array& seeds, const Array& items,
             int64_t stream_number, const Array& y) {
  constexpr const char* op = "renoise";
  const LatentChecker check(op, "x", x);
  check.checker().ndim(3);
  check.per_sample("sigma", sigma).like("y", y);
  const FrameNoise noise = frame_noise(op, check, &seeds, &items, stream_number);
  if (x.numel() == 0) return;
  const RenoiseArgs a{samples(x), samples_out(y), sigma.as<float>(), noise, x.size(0), x.size(1), x.size(2), x.dtype};
  PRESTISSIMO_RUN(renoise, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(renoise, "x", "sigma", "seeds", "items", "stream", "y")

}  // namespace prestissimo
