// SPDX-License-Identifier: Apache-2.0
#include "linear.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

constexpr const char* kForward = "linear";
constexpr const char* kBackward = "linear_backward";

LinearArgs checked(const Checker& check, const char* op, const Array& x, const Array& weight, const Array* down,
                   const Array* up, double lora_scale, std::string_view packing, int64_t out_features) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(2).rows_contiguous("x", x);
  LinearArgs a{};
  a.packing = packing.empty() ? Packing::none : parse_packing(op, "packing", packing);
  a.M = x.size(0), a.K = x.size(1), a.N = out_features;
  if (a.N < 0) fail(op, "out_features must be at least 0, got " + std::to_string(a.N));
  if (a.packing == Packing::none) {
    check.shape("weight", weight, {a.N, a.K}).same_dtype("weight", weight);
    a.weight_stride_n = weight.stride(0), a.weight_stride_k = weight.stride(1);
  } else {
    check.dtype("weight", weight, DType::uint8).contiguous("weight", weight);
    check.shape("weight", weight, {packed_bytes(a.packing, a.N, a.K)});
    if (a.packing == Packing::int8 && a.K > 65536) fail(op, "x has more than 65536 features, which int8 sums overflow");
  }
  check.same_device("weight", weight);
  if (!down != !up) fail(op, down ? "up must be given with down" : "down must be given with up");
  if (down) {
    a.rank = down->ndim ? down->size(0) : 0;
    check.shape("down", *down, {a.rank, a.K}).same_dtype("down", *down).same_device("down", *down);
    check.shape("up", *up, {a.N, a.rank}).same_dtype("up", *up).same_device("up", *up);
    check.contiguous("down", *down).contiguous("up", *up);
    a.down = a.rank ? down->data : nullptr, a.up = a.rank ? up->data : nullptr;
  }
  a.x = x.data, a.x_stride = x.stride(0), a.weight = weight.data;
  a.lora_scale = static_cast<float>(lora_scale);
  a.dtype = x.dtype;
  return a;
}

void* wanted(const Checker& check, const char* name, const Array* a, std::initializer_list<int64_t> shape) {
  if (!a) return nullptr;
  check.shape(name, *a, shape).same_dtype(name, *a).same_device(name, *a).contiguous(name, *a);
  return a->data;
}

#define PRESTISSIMO_ON_CPU(op, x)          \
  if ((x).device.type == DeviceType::cuda) \
  throw Unavailable(op ": has no CUDA kernel; torch tensors on a GPU go to cuBLAS")

void linear(Stream, const Array& x, const Array& weight, const Array* bias, const Array* down, const Array* up,
            double lora_scale, std::string_view packing, int64_t out_features, const Array& y) {
  const Checker check(kForward, "x", x);
  LinearArgs a = checked(check, kForward, x, weight, down, up, lora_scale, packing, out_features);
  a.bias = wanted(check, "bias", bias, {a.N});
  a.y = wanted(check, "y", &y, {a.M, a.N});
  PRESTISSIMO_ON_CPU("linear", x);
  if (y.numel()) cpu::linear(a);
}

void linear_backward(Stream, const Array& dy, const Array& x, const Array& weight, const Array* down, const Array* up,
                     double lora_scale, std::string_view packing, int64_t out_features, const Array* dx,
                     const Array* dweight, const Array* dbias, const Array* ddown, const Array* dup) {
  const Checker check(kBackward, "x", x);
  LinearBackwardArgs a{};
  a.forward = checked(check, kBackward, x, weight, down, up, lora_scale, packing, out_features);
  const LinearArgs& f = a.forward;
  a.dy = wanted(check, "dy", &dy, {f.M, f.N});
  a.dx = wanted(check, "dx", dx, {f.M, f.K});
  if (dweight && f.packing != Packing::none) fail(kBackward, "dweight is not to be had of a packed weight");
  a.dweight = wanted(check, "dweight", dweight, {f.N, f.K});
  a.dbias = wanted(check, "dbias", dbias, {f.N});
  a.ddown = wanted(check, "ddown", ddown, {f.rank, f.K});
  a.dup = wanted(check, "dup", dup, {f.N, f.rank});
  PRESTISSIMO_ON_CPU("linear_backward", x);
  cpu::linear_backward(a);
}

}  // namespace

PRESTISSIMO_OP(linear, "x", "weight", "bias", "down", "up", "lora_scale", "packing", "out_features", "y")
PRESTISSIMO_OP(linear_backward, "dy", "x", "weight", "down", "up", "lora_scale", "packing", "out_features", "dx",
               "dweight", "dbias", "ddown", "dup")

}  // namespace prestissimo
