// SPDX-License-Identifier: Apache-2.0
#include "linear.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

constexpr const char* kForward = "linear";
constexpr const char* kBackward = "linear_backward";

constexpr std::string_view kRows = "-rows";

// Of a packed weight: "int8" in panels, "int8-rows" in rows.
Packing parse_layout(const char* op, std::string_view packing, const Array& x) {
  if (packing.empty()) return Packing::none;
  const bool rows = packing.size() > kRows.size() && packing.substr(packing.size() - kRows.size()) == kRows;
  const bool gpu = x.device.type == DeviceType::cuda;
  if (rows != gpu)
    fail(op, std::string("weight is packed for ") + (rows ? "a GPU" : "the CPU") +
                 ", and x lies elsewhere: PackedWeight.to(device) packs it anew");
  return parse_packing(op, "packing", rows ? packing.substr(0, packing.size() - kRows.size()) : packing);
}

LinearArgs checked(const Checker& check, const char* op, const Array& x, const Array& weight, const Array* down,
                   const Array* up, double lora_scale, std::string_view packing, int64_t out_features) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(2).rows_contiguous("x", x);
  LinearArgs a{};
  a.packing = parse_layout(op, packing, x);
  a.M = x.size(0), a.K = x.size(1), a.N = out_features;
  a.dtype = x.dtype;
  const bool gpu = x.device.type == DeviceType::cuda;
  if (a.N < 0) fail(op, "out_features must be at least 0, got " + std::to_string(a.N));
  if (a.packing == Packing::none) {
    check.shape("weight", weight, {a.N, a.K}).same_dtype("weight", weight);
    if (gpu) check.rows_contiguous("weight", weight);
    a.weight_stride_n = weight.stride(0), a.weight_stride_k = weight.stride(1);
  } else {
    check.dtype("weight", weight, DType::uint8).contiguous("weight", weight);
    check.shape("weight", weight, {gpu ? row_bytes(a.packing, a.N, a.K) : packed_bytes(a.packing, a.N, a.K)});
    if (a.packing == Packing::int8 && a.K > 65536) fail(op, "x has more than 65536 features, which int8 sums overflow");
    const DType products = a.packing == Packing::float32 ? DType::float32 : DType::bfloat16;
    if (gpu && a.packing != Packing::int8 && x.dtype != products)
      throw ArgumentTypeError(std::string(op) + ": x must be " + name(products) + " like the packed weight on a GPU");
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
  return a;
}

void* wanted(const Checker& check, const char* name, const Array* a, std::initializer_list<int64_t> shape) {
  if (!a) return nullptr;
  check.shape(name, *a, shape).same_dtype(name, *a).same_device(name, *a).contiguous(name, *a);
  return a->data;
}

void linear(Stream stream, const Array& x, const Array& weight, const Array* bias, const Array* down, const Array* up,
            double lora_scale, std::string_view packing, int64_t out_features, const Array* workspace, const Array& y) {
  const Checker check(kForward, "x", x);
  LinearArgs a = checked(check, kForward, x, weight, down, up, lora_scale, packing, out_features);
  a.bias = wanted(check, "bias", bias, {a.N});
  a.y = wanted(check, "y", &y, {a.M, a.N});
  if (workspace) {
    check.dtype("workspace", *workspace, DType::uint8).same_device("workspace", *workspace);
    check.shape("workspace", *workspace, {linear_workspace(a).bytes}).contiguous("workspace", *workspace);
    a.workspace = workspace->data;
  }
  if (y.numel()) PRESTISSIMO_RUN(linear, x, a, stream);
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
  if (x.device.type == DeviceType::cuda)
    throw Unavailable("linear_backward: has no GPU kernel; on torch tensors it is products of torch's own");
  cpu::linear_backward(a);
}

}  // namespace

PRESTISSIMO_OP(linear, "x", "weight", "bias", "down", "up", "lora_scale", "packing", "out_features", "workspace", "y")
PRESTISSIMO_OP(linear_backward, "dy", "x", "weight", "down", "up", "lora_scale", "packing", "out_features", "dx",
               "dweight", "dbias", "ddown", "dup")

}  // namespace prestissimo
