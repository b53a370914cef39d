// SPDX-License-Identifier: Apache-2.0
#include "project_phase.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void project_phase(Stream stream, const Array& log_magnitude, const Array& phase, const Array* window, int64_t hop,
                   int64_t rounds, const Array* signal, const Array& projected) {
  const char* op = "project_phase";
  const Checker check(op, "log_magnitude", log_magnitude);
  check.dtype({DType::float32}).ndim(3).rows_contiguous("log_magnitude", log_magnitude);
  const int64_t B = log_magnitude.size(0), T = log_magnitude.size(1), F = log_magnitude.size(2);
  check_frames(op, F, hop);
  if (rounds < 1 || rounds > 1000) fail(op, "rounds must be in 1 ... 1000, got " + std::to_string(rounds));
  const auto like = [&](const char* name, const Array& a) {
    check.shape(name, a, {B, T, F}).same_dtype(name, a).same_device(name, a);
  };
  like("phase", phase);
  check.rows_contiguous("phase", phase);
  like("projected", projected);
  check.contiguous("projected", projected);
  if (projected.numel() == 0) return;
  ProjectPhaseArgs a{{log_magnitude.as<float>(), log_magnitude.stride(0), log_magnitude.stride(1)},
                     {phase.as<float>(), phase.stride(0), phase.stride(1)},
                     window_of(check, window, F),
                     projected.as<float>(),
                     nullptr,
                     B,
                     T,
                     2 * (F - 1),
                     hop,
                     rounds};
  if (log_magnitude.device.type == DeviceType::cpu) {
    cpu::project_phase(a);
    return;
  }
  if (!signal) fail(op, "signal must be given on a GPU");
  check.shape("signal", *signal, {B, T * hop}).same_dtype("signal", *signal).same_device("signal", *signal);
  check.contiguous("signal", *signal);
  a.signal = signal->as<float>();
  a.rounds = 1;
  for (int64_t round = 0; round < rounds; ++round) {
    PRESTISSIMO_RUN(project_phase, log_magnitude, a, stream);
    a.phase = {a.projected, T * F, F};  // read by the next round before it is written again
  }
}

}  // namespace

PRESTISSIMO_OP(project_phase, "log_magnitude", "phase", "window", "hop", "rounds", "signal", "projected")

}  // namespace prestissimo
