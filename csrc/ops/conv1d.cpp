// SPDX-License-Identifier: Apache-2.0
#include "conv1d.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

const void* vector(const Checker& check, const char* name, const Array* a, int64_t length) {
  if (!a) return nullptr;
  check.shape(name, *a, {length}).same_dtype(name, *a).same_device(name, *a).contiguous(name, *a);
  return address(*a);
}

void set_weight(Conv1dArgs& a, const char* op, const Checker& check, const Array& weight, std::string_view packing) {
  const int64_t K = a.taps * a.channels;
  a.packing = packing.empty() ? Packing::none : parse_packing(op, "packing", packing);
  a.weight = weight.data;
  check.same_device("weight", weight);
  if (a.packing == Packing::none) {
    if (weight.ndim != 3 || (weight.size(2) + a.phases - 1) / a.phases != a.taps || a.outputs % a.phases)
      fail(op, "weight must be [out, in, kernel], got " + shape_text(weight));
    check.shape("weight", weight, {a.outputs / a.phases, a.channels, weight.size(2)}).same_dtype("weight", weight);
    check.rows_contiguous("weight", weight);
    if (weight.stride(0) < 0 || weight.stride(1) < 0) throw NotContiguous("conv1d: weight must not run backwards");
    a.weight_stride_o = weight.stride(0), a.weight_stride_c = weight.stride(1), a.kernel = weight.size(2);
    return;
  }
  check.dtype("weight", weight, DType::uint8).contiguous("weight", weight);
  check.shape("weight", weight, {packed_bytes(a.packing, a.outputs, K)});
  if (a.packing == Packing::int8 && K > 65536) fail(op, "weight has more than 65536 columns, which int8 sums overflow");
}

// The binding has no booleans: log_scale is 0 or 1. `stride` is 0, or that of a transposed convolution.
void conv1d(Stream, const Array& x, const Array& weight, const Array* bias, int64_t taps, int64_t padding,
            int64_t dilation, std::string_view packing, int64_t outputs, const Array* alpha, const Array* beta,
            int64_t log_scale, const Array* residual, int64_t stride, const Array& y) {
  const char* op = "conv1d";
  const Checker check(op, "x", x);
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3);
  const bool time_last = x.ndim == 3 && x.stride(1) == 1 && x.stride(2) > 1;
  if (!time_last) check.rows_contiguous("x", x);
  if (taps < 1) fail(op, "weight must have at least 1 tap, got " + std::to_string(taps));
  if (padding < 0) fail(op, "padding must be at least 0, got " + std::to_string(padding));
  if (dilation < 1) fail(op, "dilation must be at least 1, got " + std::to_string(dilation));
  if (outputs < 0) fail(op, "out must be at least 0, got " + std::to_string(outputs));
  if (stride < 0) fail(op, "stride must be at least 0, got " + std::to_string(stride));
  if (!alpha != !beta) fail(op, alpha ? "beta must be given with alpha" : "alpha must be given with beta");
  Conv1dArgs a{};
  a.batch = x.size(0), a.time_in = x.size(1), a.channels = x.size(2), a.outputs = outputs;
  a.transposed = stride > 0, a.phases = stride > 0 ? stride : 1;
  a.taps = taps, a.dilation = dilation, a.padding = padding, a.log_scale = log_scale != 0, a.dtype = x.dtype;
  a.time = a.time_in + 2 * padding - dilation * (taps - 1);
  if (a.channels < 1) fail(op, "x must have at least 1 channel, got 0");
  if (a.time < 1) fail(op, "x must be long enough for an output, got " + std::to_string(a.time_in) + " steps");
  set_weight(a, op, check, weight, packing);
  a.x = rows(x), a.stride_c = time_last ? x.stride(2) : 1;
  a.bias = vector(check, "bias", bias, outputs);
  a.alpha = vector(check, "alpha", alpha, a.channels);
  a.beta = vector(check, "beta", beta, a.channels);
  const auto like_y = [&](const char* name, const Array& v) {
    check.shape(name, v, {a.batch, a.time, outputs}).same_dtype(name, v).same_device(name, v).rows_contiguous(name, v);
  };
  like_y("y", y);
  a.y = row_output(y);
  if (residual) {
    like_y("residual", *residual);
    a.residual = rows(*residual);
  }
  if (x.device.type == DeviceType::cuda)
    throw Unavailable("conv1d: has no CUDA kernel; torch tensors on a GPU go to cuDNN");
  if (y.numel()) cpu::conv1d(a);
}

}  // namespace

PRESTISSIMO_OP(conv1d, "x", "weight", "bias", "taps", "padding", "dilation", "packing", "out", "alpha", "beta",
               "log_scale", "residual", "stride", "y")

}  // namespace prestissimo
