// SPDX-License-Identifier: Apache-2.0
#include "pack_linear.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {

Packing parse_packing(const char* op, const char* argument, std::string_view text) {
  if (text == "float32") return Packing::float32;
  if (text == "bfloat16") return Packing::bfloat16;
  if (text == "int8") return Packing::int8;
  fail(op, std::string(argument) + " must be 'float32', 'bfloat16' or 'int8', got '" + std::string(text) + "'");
}

namespace {

void pack_linear(Stream, const Array& weight, const Array* scale, std::string_view dtype, std::string_view layout,
                 const Array& out) {
  constexpr const char* kOp = "pack_linear";
  const Checker check(kOp, "weight", weight);
  check.dtype({DType::float32, DType::bfloat16, DType::float16, DType::int8}).ndim(2);
  const Packing packing = parse_packing(kOp, "dtype", dtype);
  if (layout != "panels" && layout != "rows")
    fail(kOp, "layout must be 'panels' or 'rows', got '" + std::string(layout) + "'");
  const bool rows = layout == "rows";
  const int64_t N = weight.size(0), K = weight.size(1);
  const bool quantised = weight.dtype == DType::int8;
  if (quantised && packing != Packing::int8) fail(kOp, "dtype must be 'int8' where weight is int8");
  if (quantised && !scale) fail(kOp, "scale must be given where weight is int8");
  if (!quantised && scale) fail(kOp, "scale goes with an int8 weight alone");
  if (scale) {
    check.shape("scale", *scale, {N}).dtype("scale", *scale, DType::float32).same_device("scale", *scale);
    check.contiguous("scale", *scale);
  }
  check.dtype("out", out, DType::uint8)
      .shape("out", out, {rows ? row_bytes(packing, N, K) : packed_bytes(packing, N, K)})
      .contiguous("out", out);
  check.same_device("out", out);
  if (weight.device.type == DeviceType::cuda) throw Unavailable("pack_linear: packs on the CPU alone");
  if (N == 0) return;
  cpu::pack_linear({weight.data, weight.stride(0), weight.stride(1), scale ? scale->as<const float>() : nullptr,
                    out.data, N, K, packing, rows, weight.dtype});
}

}  // namespace

PRESTISSIMO_OP(pack_linear, "weight", "scale", "dtype", "layout", "out")

}  // namespace prestissimo
