// SPDX-License-Identifier: Apache-2.0
#include "adaln_modulate.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

constexpr const char* kForward = "adaln_modulate";
constexpr const char* kBackward = "adaln_modulate_backward";

Norm parse_norm(const char* op, std::string_view text) {
  if (text == "layer") return Norm::layer;
  if (text == "rms") return Norm::rms;
  fail(op, "norm must be 'layer' or 'rms', got '" + std::string(text) + "'");
}

void check_modulation(const Checker& check, const char* name, const Array* a, const Array& x) {
  if (!a) return;
  if (a->ndim == 3)
    check.shape(name, *a, {x.size(0), x.size(1), x.size(2)});
  else
    check.shape(name, *a, {x.size(0), x.size(2)});
  check.same_dtype(name, *a).same_device(name, *a).rows_contiguous(name, *a);
}

void check_vector(const Checker& check, const char* name, const Array* a, const Array& x) {
  if (a) check.shape(name, *a, {x.size(2)}).same_dtype(name, *a).same_device(name, *a).contiguous(name, *a);
}

void check_like(const Checker& check, const char* name, const Array& a, const Array& x) {
  check.shape(name, a, {x.size(0), x.size(1), x.size(2)}).same_dtype(name, a).same_device(name, a);
  check.rows_contiguous(name, a);
}

AdalnModulateArgs checked(const Checker& check, const char* op, const Array& x, const Array* shift, const Array* scale,
                          const Array* weight, const Array* bias, double eps, std::string_view norm) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3).rows_contiguous("x", x);
  check_modulation(check, "shift", shift, x);
  check_modulation(check, "scale", scale, x);
  check_vector(check, "weight", weight, x);
  check_vector(check, "bias", bias, x);
  if (!(eps >= 0)) fail(op, "eps must be at least 0, got " + std::to_string(eps));
  AdalnModulateArgs a{};
  a.x = rows(x);
  if (shift) a.shift = rows(*shift);
  if (scale) a.scale = rows(*scale);
  a.weight = weight ? address(*weight) : nullptr;
  a.bias = bias ? address(*bias) : nullptr;
  a.batch = x.size(0);
  a.time = x.size(1);
  a.channels = x.size(2);
  a.eps = static_cast<float>(eps);
  a.norm = parse_norm(op, norm);
  a.dtype = x.dtype;
  return a;
}

void adaln_modulate(Stream stream, const Array& x, const Array* shift, const Array* scale, const Array* weight,
                    const Array* bias, double eps, std::string_view norm, const Array& y) {
  const Checker check(kForward, "x", x);
  AdalnModulateArgs a = checked(check, kForward, x, shift, scale, weight, bias, eps, norm);
  check_like(check, "y", y, x);
  a.y = row_output(y);
  if (x.numel() == 0) return;
  PRESTISSIMO_RUN(adaln_modulate, x, a, stream);
}

void adaln_modulate_backward(Stream stream, const Array& dy, const Array& x, const Array* shift, const Array* scale,
                             const Array* weight, const Array* bias, double eps, std::string_view norm,
                             const Array& partial, const Array& dx, const Array* dshift, const Array* dscale,
                             const Array* dweight, const Array* dbias) {
  const Checker check(kBackward, "x", x);
  AdalnModulateBackwardArgs a{};
  a.forward = checked(check, kBackward, x, shift, scale, weight, bias, eps, norm);
  check_like(check, "dy", dy, x);
  check_like(check, "dx", dx, x);
  check_modulation(check, "dshift", dshift, x);
  check_modulation(check, "dscale", dscale, x);
  check_vector(check, "dweight", dweight, x);
  check_vector(check, "dbias", dbias, x);
  a.dy = rows(dy);
  a.dx = row_output(dx);
  if (dshift) a.dshift = row_output(*dshift), a.shift_per_row = dshift->ndim == 3;
  if (dscale) a.dscale = row_output(*dscale), a.scale_per_row = dscale->ndim == 3;
  a.dweight = dweight ? address(*dweight) : nullptr;
  a.dbias = dbias ? address(*dbias) : nullptr;
  check.dtype("partial", partial, DType::float32).same_device("partial", partial).contiguous("partial", partial);
  check.shape("partial", partial, {partial_size(a)});
  a.partial = partial.as<float>();
  if (x.size(2) == 0) return;
  PRESTISSIMO_RUN(adaln_modulate_backward, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(adaln_modulate, "x", "shift", "scale", "weight", "bias", "eps", "norm", "y")
PRESTISSIMO_OP(adaln_modulate_backward, "dy", "x", "shift", "scale", "weight", "bias", "eps", "norm", "partial", "dx",
               "dshift", "dscale", "dweight", "dbias")

}  // namespace prestissimo
