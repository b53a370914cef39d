// SPDX-License-Identifier: Apache-2.0
#include "quantize_rows.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void quantize_rows(Stream stream, const Array& x, const Array& y, const Array& scale) {
  const char* op = "quantize_rows";
  const Checker check(op, "x", x);
  check.dtype({DType::float32, DType::bfloat16, DType::float16});
  if (x.ndim < 1) fail(op, "x must have at least 1 dimension, got shape []");
  check.rows_contiguous("x", x);
  bool fits = y.ndim == x.ndim && scale.ndim == x.ndim - 1;
  for (int d = 0; fits && d < x.ndim; ++d)
    fits = y.shape[d] == x.shape[d] && (d + 1 == x.ndim || scale.shape[d] == x.shape[d]);
  if (!fits)
    fail(op,
         "y must have the shape of x and scale that of its rows, got " + shape_text(y) + " and " + shape_text(scale));
  check.dtype("y", y, DType::int8).same_device("y", y).rows_contiguous("y", y);
  check.dtype("scale", scale, DType::float32).same_device("scale", scale);
  if (scale.numel() == 0) return;
  Array each = scale;  // as rows of one channel
  each.ndim = x.ndim;
  each.shape[x.ndim - 1] = each.strides[x.ndim - 1] = 1;
  const RowsOf rows(op, {&x, &y, &each});
  const QuantizeRowsArgs a{rows.view(0), rows.output(1), rows.output(2), rows.batch, rows.time, x.size(-1), x.dtype};
  PRESTISSIMO_RUN(quantize_rows, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(quantize_rows, "x", "y", "scale")

}  // namespace prestissimo
