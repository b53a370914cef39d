// SPDX-License-Identifier: Apache-2.0
#include "hidden_variance.h"

#include "../registry.h"
#include "dispatch.h"
#include "float_arrays.h"

namespace prestissimo {
namespace {

void hidden_variance(Stream stream, const Array& x, const Array& partial, const Array& variance, const Array& mean) {
  const Checker check("hidden_variance", "x", x);
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3).rows_contiguous("x", x);
  check_float(check, "partial", partial, {x.size(0), x.size(1), 2});
  check_float(check, "variance", variance, {x.size(0)});
  check_float(check, "mean", mean, {x.size(0)});
  if (x.size(0) == 0) return;
  const HiddenVarianceArgs a{
      rows(x), variance.as<float>(), mean.as<float>(), partial.as<float>(), x.size(0), x.size(1), x.size(2), x.dtype};
  PRESTISSIMO_RUN(hidden_variance, x, a, stream);
}

void hidden_variance_backward(Stream stream, const Array& dvariance, const Array& x, const Array& mean,
                              const Array& dx) {
  const Checker check("hidden_variance_backward", "x", x);
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3).rows_contiguous("x", x);
  check_float(check, "dvariance", dvariance, {x.size(0)});
  check_float(check, "mean", mean, {x.size(0)});
  check.shape("dx", dx, {x.size(0), x.size(1), x.size(2)}).same_dtype("dx", dx).same_device("dx", dx);
  check.rows_contiguous("dx", dx);
  if (x.numel() == 0) return;
  const HiddenVarianceBackwardArgs a{
      rows(x), row_output(dx), dvariance.as<float>(), mean.as<float>(), x.size(0), x.size(1), x.size(2), x.dtype};
  PRESTISSIMO_RUN(hidden_variance_backward, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(hidden_variance, "x", "partial", "variance", "mean")
PRESTISSIMO_OP(hidden_variance_backward, "dvariance", "x", "mean", "dx")

}  // namespace prestissimo
