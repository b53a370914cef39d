// SPDX-License-Identifier: Apache-2.0
#include "swiglu.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void swiglu(Stream stream, const Array& x, int64_t gate_first, const Array& y) {
  const GatedLinearUnitArgs a = gated_linear_unit("swiglu", x, gate_first != 0, Gate::silu, y);
  if (x.numel() == 0) return;
  PRESTISSIMO_RUN(swiglu, x, a, stream);
}

void swiglu_backward(Stream stream, const Array& dy, const Array& x, int64_t gate_first, const Array& dx) {
  const auto a = gated_linear_unit_backward("swiglu_backward", dy, x, gate_first != 0, Gate::silu, dx);
  if (x.numel() == 0) return;
  PRESTISSIMO_RUN(swiglu_backward, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(swiglu, "x", "gate_first", "y")
PRESTISSIMO_OP(swiglu_backward, "dy", "x", "gate_first", "dx")

}  // namespace prestissimo
