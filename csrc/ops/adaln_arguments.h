// SPDX-License-Identifier: Apache-2.0
// The checks of adaln_modulate's arguments, for it and for the ops that have a norm and a modulation in them.
#pragma once
#include "adaln_modulate.h"

namespace prestissimo {

inline Norm parse_norm(const char* op, std::string_view text) {
  if (text == "layer") return Norm::layer;
  if (text == "rms") return Norm::rms;
  fail(op, "norm must be 'layer' or 'rms', got '" + std::string(text) + "'");
}

inline void check_modulation(const Checker& check, const char* name, const Array* a, const Array& x) {
  if (!a) return;
  if (a->ndim == 3)
    check.shape(name, *a, {x.size(0), x.size(1), x.size(2)});
  else
    check.shape(name, *a, {x.size(0), x.size(2)});
  check.same_dtype(name, *a).same_device(name, *a).rows_contiguous(name, *a);
}

inline void check_vector(const Checker& check, const char* name, const Array* a, const Array& x) {
  if (a) check.shape(name, *a, {x.size(2)}).same_dtype(name, *a).same_device(name, *a).contiguous(name, *a);
}

inline void check_like(const Checker& check, const char* name, const Array& a, const Array& x) {
  check.shape(name, a, {x.size(0), x.size(1), x.size(2)}).same_dtype(name, a).same_device(name, a);
  check.rows_contiguous(name, a);
}

inline AdalnModulateArgs adaln_arguments(const Checker& check, const char* op, const Array& x, const Array* shift,
                                         const Array* scale, const Array* weight, const Array* bias, double eps,
                                         std::string_view norm) {
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

// The gradients of the vectors, each where it is wanted.
inline void adaln_gradients(const Checker& check, AdalnModulateBackwardArgs& a, const Array& x, const Array* dshift,
                            const Array* dscale, const Array* dweight, const Array* dbias) {
  check_modulation(check, "dshift", dshift, x);
  check_modulation(check, "dscale", dscale, x);
  check_vector(check, "dweight", dweight, x);
  check_vector(check, "dbias", dbias, x);
  if (dshift) a.dshift = row_output(*dshift), a.shift_per_row = dshift->ndim == 3;
  if (dscale) a.dscale = row_output(*dscale), a.scale_per_row = dscale->ndim == 3;
  a.dweight = dweight ? address(*dweight) : nullptr;
  a.dbias = dbias ? address(*dbias) : nullptr;
}

}  // namespace prestissimo
