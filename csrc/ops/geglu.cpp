// SPDX-License-Identifier: Apache-2.0
#include "geglu.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

Gate parse_approximate(const char* op, std::string_view text) {
  if (text == "none") return Gate::gelu;
  if (text == "tanh") return Gate::gelu_tanh;
  fail(op, "approximate must be 'none' or 'tanh', got '" + std::string(text) + "'");
}

void geglu(Stream stream, const Array& x, int64_t gate_first, std::string_view approximate, const Array& y) {
  const auto a = gated_linear_unit("geglu", x, gate_first != 0, parse_approximate("geglu", approximate), y);
  if (x.numel() == 0) return;
  PRESTISSIMO_RUN(geglu, x, a, stream);
}

void geglu_backward(Stream stream, const Array& dy, const Array& x, int64_t gate_first, std::string_view approximate,
                    const Array& dx) {
  const char* op = "geglu_backward";
  const auto a = gated_linear_unit_backward(op, dy, x, gate_first != 0, parse_approximate(op, approximate), dx);
  if (x.numel() == 0) return;
  PRESTISSIMO_RUN(geglu_backward, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(geglu, "x", "gate_first", "approximate", "y")
PRESTISSIMO_OP(geglu_backward, "dy", "x", "gate_first", "approximate", "dx")

}  // namespace prestissimo
