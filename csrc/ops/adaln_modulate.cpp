// SPDX-License-Identifier: Apache-2.0
#include "adaln_modulate.h"

#include "../registry.h"
#include "adaln_arguments.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

constexpr const char* kForward = "adaln_modulate";
constexpr const char* kBackward = "adaln_modulate_backward";

void adaln_modulate(Stream stream, const Array& x, const Array* shift, const Array* scale, const Array* weight,
                    const Array* bias, double eps, std::string_view norm, const Array& y) {
  const Checker check(kForward, "x", x);
  AdalnModulateArgs a = adaln_arguments(check, kForward, x, shift, scale, weight, bias, eps, norm);
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
  a.forward = adaln_arguments(check, kBackward, x, shift, scale, weight, bias, eps, norm);
  check_like(check, "dy", dy, x);
  check_like(check, "dx", dx, x);
  adaln_gradients(check, a, x, dshift, dscale, dweight, dbias);
  a.dy = rows(dy);
  a.dx = row_output(dx);
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
