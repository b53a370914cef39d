// SPDX-License-Identifier: Apache-2.0
#include "inverse_stft.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {

void check_frames(const char* op, int64_t bins, int64_t hop) {
  const int64_t n_fft = 2 * (bins - 1);
  if (n_fft < 8 || n_fft > 4096 || (n_fft & (n_fft - 1)) != 0)
    fail(op, "log_magnitude must have n_fft / 2 + 1 bins with n_fft = 8, 16, ... 4096, got " + std::to_string(bins));
  if (!frames_are_taken(n_fft, hop))
    fail(op, "hop must divide n_fft = " + std::to_string(n_fft) + " at least twice and be at least " +
                 std::to_string(n_fft <= 512 ? 2 : n_fft / 256) + ", got " + std::to_string(hop));
}

const float* window_of(const Checker& check, const Array* window, int64_t bins) {
  if (!window) return nullptr;
  check.shape("window", *window, {2 * (bins - 1)}).same_dtype("window", *window).same_device("window", *window);
  check.contiguous("window", *window);
  return window->as<float>();
}

namespace {

Frames frames_of(const Array& a) { return {a.as<float>(), a.stride(0), a.stride(1)}; }

InverseStftArgs checked(const char* op, const Array& log_magnitude, const Array& phase, const Array* window,
                        int64_t hop) {
  const Checker check(op, "log_magnitude", log_magnitude);
  check.dtype({DType::float32}).ndim(3).rows_contiguous("log_magnitude", log_magnitude);
  const int64_t B = log_magnitude.size(0), T = log_magnitude.size(1), F = log_magnitude.size(2);
  check_frames(op, F, hop);
  check.shape("phase", phase, {B, T, F}).same_dtype("phase", phase).same_device("phase", phase);
  check.rows_contiguous("phase", phase);
  return {frames_of(log_magnitude), frames_of(phase), window_of(check, window, F), nullptr, B, T, 2 * (F - 1), hop};
}

void inverse_stft(Stream stream, const Array& log_magnitude, const Array& phase, const Array* window, int64_t hop,
                  const Array& signal) {
  InverseStftArgs a = checked("inverse_stft", log_magnitude, phase, window, hop);
  const Checker check("inverse_stft", "log_magnitude", log_magnitude);
  check.shape("signal", signal, {a.batch, a.frames * hop}).same_dtype("signal", signal);
  check.same_device("signal", signal).contiguous("signal", signal);
  a.signal = signal.as<float>();
  if (a.batch * a.frames == 0) return;
  PRESTISSIMO_RUN(inverse_stft, log_magnitude, a, stream);
}

void inverse_stft_backward(Stream stream, const Array& dsignal, const Array& log_magnitude, const Array& phase,
                           const Array* window, int64_t hop, const Array* dlog_magnitude, const Array* dphase) {
  const char* op = "inverse_stft_backward";
  InverseStftBackwardArgs a{checked(op, log_magnitude, phase, window, hop), nullptr, nullptr, nullptr};
  const InverseStftArgs& f = a.forward;
  const Checker check(op, "log_magnitude", log_magnitude);
  check.shape("dsignal", dsignal, {f.batch, f.frames * hop}).same_dtype("dsignal", dsignal);
  check.same_device("dsignal", dsignal).contiguous("dsignal", dsignal);
  a.dsignal = dsignal.as<float>();
  const auto output = [&](const char* name, const Array* d) -> float* {
    if (!d) return nullptr;
    check.shape(name, *d, {f.batch, f.frames, f.n_fft / 2 + 1}).same_dtype(name, *d).same_device(name, *d);
    check.contiguous(name, *d);
    return d->as<float>();
  };
  a.dlog_magnitude = output("dlog_magnitude", dlog_magnitude);
  a.dphase = output("dphase", dphase);
  if (f.batch * f.frames == 0) return;
  PRESTISSIMO_RUN(inverse_stft_backward, log_magnitude, a, stream);
}

}  // namespace

PRESTISSIMO_OP(inverse_stft, "log_magnitude", "phase", "window", "hop", "signal")
PRESTISSIMO_OP(inverse_stft_backward, "dsignal", "log_magnitude", "phase", "window", "hop", "dlog_magnitude", "dphase")

}  // namespace prestissimo
