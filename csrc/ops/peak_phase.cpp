// SPDX-License-Identifier: Apache-2.0
#include "peak_phase.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void peak_phase(Stream stream, const Array& log_magnitude, const Array& state, int64_t hop, const Array& phase,
                const Array& next_state) {
  const char* op = "peak_phase";
  const Checker check(op, "log_magnitude", log_magnitude);
  check.dtype({DType::float32}).ndim(3).rows_contiguous("log_magnitude", log_magnitude);
  const int64_t B = log_magnitude.size(0), T = log_magnitude.size(1), F = log_magnitude.size(2);
  if (F < 2) fail(op, "log_magnitude must have at least 2 bins, got shape " + shape_text(log_magnitude));
  if (F > int64_t{1} << 24)
    fail(op, "log_magnitude must have at most 2^24 bins, got shape " + shape_text(log_magnitude));
  if (hop < 1 || hop > 2 * (F - 1))
    fail(op, "hop must be in 1 ... n_fft = " + std::to_string(2 * (F - 1)) + ", got " + std::to_string(hop));
  for (const auto& [name, a] : {std::pair<const char*, const Array&>("state", state), {"next_state", next_state}})
    check.shape(name, a, {B, F}).dtype(name, a, DType::int32).same_device(name, a).contiguous(name, a);
  check.shape("phase", phase, {B, T, F}).same_dtype("phase", phase).same_device("phase", phase);
  check.contiguous("phase", phase);
  if (B == 0) return;
  const PeakPhaseArgs a{log_magnitude.as<float>(),
                        log_magnitude.stride(0),
                        log_magnitude.stride(1),
                        state.as<int32_t>(),
                        phase.as<float>(),
                        next_state.as<int32_t>(),
                        B,
                        T,
                        F,
                        hop};
  PRESTISSIMO_RUN(peak_phase, log_magnitude, a, stream);
}

}  // namespace

PRESTISSIMO_OP(peak_phase, "log_magnitude", "state", "hop", "phase", "next_state")

}  // namespace prestissimo
