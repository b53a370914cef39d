// SPDX-License-Identifier: Apache-2.0
#include "depthwise_conv1d.h"

#include "../registry.h"
#include "depthwise_conv1d_time.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

// A [B, T, C] on the CPU whose steps are neighbours, not its channels.
bool is_time_last(const Array& a) {
  return a.device.type == DeviceType::cpu && a.ndim == 3 && a.stride(1) == 1 && a.stride(2) != 1;
}
void check_rows(const Checker& check, const char* name, const Array& a, int64_t B, int64_t T, int64_t C,
                bool time_last = false) {
  check.shape(name, a, {B, T, C}).same_dtype(name, a).same_device(name, a);
  if (!time_last) check.rows_contiguous(name, a);
}
void check_vector(const Checker& check, const char* name, const Array& a, std::initializer_list<int64_t> shape) {
  check.shape(name, a, shape).same_dtype(name, a).same_device(name, a).contiguous(name, a);
}

// Steps of y, as torch counts them; fails where there would be none.
int64_t output_steps(const char* op, const Array& x, int64_t taps, int64_t padding, int64_t dilation) {
  if (padding < 0) fail(op, "padding must be at least 0, got " + std::to_string(padding));
  if (dilation < 1) fail(op, "dilation must be at least 1, got " + std::to_string(dilation));
  const int64_t steps = x.size(1) + 2 * padding - dilation * (taps - 1);
  if (steps < 1) fail(op, "x must be long enough for an output, got " + std::to_string(x.size(1)) + " steps");
  return steps;
}
void check_weight(const char* op, const Checker& check, const Array& weight, const Array& x, bool time_last = false) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3);
  if (!time_last) check.rows_contiguous("x", x);
  if (weight.ndim != 2 || weight.size(1) < 1 || weight.size(1) > kMostTaps)
    fail(op, "weight must have 1 to 7 taps, got shape " + shape_text(weight));
  check_vector(check, "weight", weight, {x.size(2), weight.size(1)});
}

void depthwise_conv1d(Stream stream, const Array& x, const Array& weight, const Array* bias, int64_t padding,
                      int64_t dilation, const Array& y) {
  const char* op = "depthwise_conv1d";
  const Checker check(op, "x", x);
  const bool time_last = is_time_last(x) && is_time_last(y);
  check_weight(op, check, weight, x, time_last);
  const int64_t B = x.size(0), C = x.size(2), taps = weight.size(1);
  const int64_t T = output_steps(op, x, taps, padding, dilation);
  if (bias) check_vector(check, "bias", *bias, {C});
  check_rows(check, "y", y, B, T, C, time_last);
  if (time_last) {
    const DepthwiseConv1dTimeArgs a{{address(x), x.stride(0), x.stride(2)},
                                    address(weight),
                                    bias ? address(*bias) : nullptr,
                                    {address(y), y.stride(0), y.stride(2)},
                                    B,
                                    x.size(1),
                                    T,
                                    C,
                                    taps,
                                    -padding,
                                    dilation,
                                    x.dtype};
    if (y.numel()) cpu::depthwise_conv1d_time(a);
    return;
  }
  const DepthwiseConv1dArgs a{
      rows(x),  address(weight), bias ? address(*bias) : nullptr, row_output(y), B, x.size(1), T, C, taps, -padding,
      dilation, x.dtype};
  if (y.numel() == 0) return;
  PRESTISSIMO_RUN(depthwise_conv1d, x, a, stream);
}

void depthwise_conv1d_backward(Stream stream, const Array& dy, const Array& x, const Array& weight, int64_t padding,
                               int64_t dilation, const Array* partial, const Array* dx, const Array* dweight,
                               const Array* dbias) {
  const char* op = "depthwise_conv1d_backward";
  const Checker check(op, "x", x);
  check_weight(op, check, weight, x);
  const int64_t B = x.size(0), C = x.size(2), taps = weight.size(1);
  const int64_t T = output_steps(op, x, taps, padding, dilation);
  check_rows(check, "dy", dy, B, T, C);
  if (dx) {
    check_rows(check, "dx", *dx, B, x.size(1), C);
    const DepthwiseConv1dArgs a{rows(dy), address(weight), nullptr,   row_output(*dx), B, T, x.size(1), C,
                                taps,     padding,         -dilation, x.dtype};
    if (dx->numel()) PRESTISSIMO_RUN(depthwise_conv1d, x, a, stream);
  }
  if (!partial) return;
  if (!dweight || !dbias) fail(op, "dweight and dbias must be given with partial");
  check_vector(check, "dweight", *dweight, {C, taps});
  check_vector(check, "dbias", *dbias, {C});
  check.dtype("partial", *partial, DType::float32).same_device("partial", *partial).contiguous("partial", *partial);
  check.shape("partial", *partial, {(taps + 1) * B * time_blocks(T) * C});
  const DepthwiseConv1dWeightArgs a{
      rows(dy), rows(x),  address(*dweight), address(*dbias), partial->as<float>(), B, x.size(1), T, C,
      taps,     -padding, dilation,          x.dtype};
  if (C) PRESTISSIMO_RUN(depthwise_conv1d_weight, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(depthwise_conv1d, "x", "weight", "bias", "padding", "dilation", "y")
PRESTISSIMO_OP(depthwise_conv1d_backward, "dy", "x", "weight", "padding", "dilation", "partial", "dx", "dweight",
               "dbias")

}  // namespace prestissimo
