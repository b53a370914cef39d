// SPDX-License-Identifier: Apache-2.0
#include "peak_phase.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void peak_phase(Stream stream, const Array& log_magnitude, const Array* state, int64_t hop, const Array& phase,
                const Array& next_state, const Array* sources) {
  const char* op = "peak_phase";
  const Checker check(op, "log_magnitude", log_magnitude);
  check.dtype({DType::float32}).ndim(3).rows_contiguous("log_magnitude", log_magnitude);
  const int64_t B = log_magnitude.size(0), T = log_magnitude.size(1), F = log_magnitude.size(2);
  if (F < 2) fail(op, "log_magnitude must have at least 2 bins, got shape " + shape_text(log_magnitude));
  if (F > int64_t{1} << 24)
    fail(op, "log_magnitude must have at most 2^24 bins, got shape " + shape_text(log_magnitude));
  if (hop < 1 || hop > 2 * (F - 1))
    fail(op, "hop must be in 1 ... n_fft = " + std::to_string(2 * (F - 1)) + ", got " + std::to_string(hop));
  const auto turns = [&](const char* name, const Array& v) {
    check.shape(name, v, {B, F}).dtype(name, v, DType::int32).same_device(name, v).contiguous(name, v);
    return v.as<int32_t>();
  };
  check.shape("phase", phase, {B, T, F}).same_dtype("phase", phase).same_device("phase", phase);
  check.contiguous("phase", phase);
  PeakPhaseArgs a{log_magnitude.as<float>(),
                  log_magnitude.stride(0),
                  log_magnitude.stride(1),
                  state ? turns("state", *state) : nullptr,
                  phase.as<float>(),
                  turns("next_state", next_state),
                  nullptr,
                  B,
                  T,
                  F,
                  hop};
  if (B == 0) return;
  if (log_magnitude.device.type == DeviceType::cuda) {
    if (!sources) fail(op, "sources must be given on a GPU");
    check.shape("sources", *sources, {B, T, F}).dtype("sources", *sources, DType::int32);
    check.same_device("sources", *sources).contiguous("sources", *sources);
    a.sources = sources->as<int32_t>();
  }
  PRESTISSIMO_RUN(peak_phase, log_magnitude, a, stream);
}

}  // namespace

PRESTISSIMO_OP(peak_phase, "log_magnitude", "state", "hop", "phase", "next_state", "sources")

}  // namespace prestissimo
