// SPDX-License-Identifier: Apache-2.0
// What swiglu and geglu share. x [..., 2F] holds two halves, values and gates: (a, b) = x, or (b, a) = x with
// gate_first. y = a f(b)                           f = silu, gelu or gelu by tanh
//
// Backward: da = dy f(b),  db = dy a f'(b)
// silu(b)      = b s,  s = 1 / (1 + e^-b);     silu' = s (1 + b (1 - s))
// gelu(b)      = b P(b), P the normal distribution function;     gelu' = P + b e^(-b^2 / 2) / sqrt(2 pi)
// gelu_tanh(b) = b (1 + t) / 2,  t = tanh(k (b + 0.044715 b^3)),  k = sqrt(2 / pi)
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

enum class Gate : uint8_t { silu, gelu, gelu_tanh };

struct GatedLinearUnitArgs {
  RowView x;
  RowOutput y;
  int64_t batch, time, width;  // width is F
  bool gate_first;
  Gate gate;
  DType dtype;
};

struct GatedLinearUnitBackwardArgs {
  RowView dy, x;
  RowOutput dx;
  int64_t batch, time, width;
  bool gate_first;
  Gate gate;
  DType dtype;
};

// An array of x's leading dimensions and `last` channels.
inline void check_rows_like(const Checker& check, const char* op, const char* name, const Array& a, const Array& x,
                            int64_t last) {
  bool same = a.ndim == x.ndim && a.size(-1) == last;
  for (int d = 0; same && d < x.ndim - 1; ++d) same = a.shape[d] == x.shape[d];
  if (!same)
    fail(op, std::string(name) + " must have the leading dimensions of x " + shape_text(x) + " and " +
                 std::to_string(last) + " channels, got " + shape_text(a));
  check.same_dtype(name, a).same_device(name, a).rows_contiguous(name, a);
}

inline void check_halves(const Checker& check, const char* op, const Array& x) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).rows_contiguous("x", x);
  if (x.ndim < 1) fail(op, "x must have at least 1 dimension");
  if (x.size(-1) % 2) fail(op, "x must have an even last dimension, got shape " + shape_text(x));
}

inline GatedLinearUnitArgs gated_linear_unit(const char* op, const Array& x, bool gate_first, Gate gate,
                                             const Array& y) {
  const Checker check(op, "x", x);
  check_halves(check, op, x);
  check_rows_like(check, op, "y", y, x, x.size(-1) / 2);
  const RowsOf rows(op, {&x, &y});
  return {rows.view(0), rows.output(1), rows.batch, rows.time, x.size(-1) / 2, gate_first, gate, x.dtype};
}

inline GatedLinearUnitBackwardArgs gated_linear_unit_backward(const char* op, const Array& dy, const Array& x,
                                                              bool gate_first, Gate gate, const Array& dx) {
  const Checker check(op, "x", x);
  check_halves(check, op, x);
  check_rows_like(check, op, "dy", dy, x, x.size(-1) / 2);
  check_rows_like(check, op, "dx", dx, x, x.size(-1));
  const RowsOf rows(op, {&dy, &x, &dx});
  return {rows.view(0), rows.view(1), rows.output(2), rows.batch, rows.time, x.size(-1) / 2, gate_first, gate, x.dtype};
}

}  // namespace prestissimo
