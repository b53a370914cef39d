// SPDX-License-Identifier: Apache-2.0
// mean, variance = of all elements of a sample [T, C], the variance over T C and not T C - 1; arithmetic in float32.
// Rows come first: `partial` is [B][T][2], mean and sum of squared deviations of every row. They are added in the order
// of the rows: T C variance = sum over rows of (squares + C (row's mean - mean)^2).
//
// Backward: dx = 2 dvariance (x - mean) / (T C)
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

struct HiddenVarianceArgs {
  RowView x;
  float *variance, *mean;  // [B]
  float* partial;
  int64_t batch, time, channels;
  DType dtype;
};

struct HiddenVarianceBackwardArgs {
  RowView x;
  RowOutput dx;
  const float *dvariance, *mean;  // [B]
  int64_t batch, time, channels;
  DType dtype;
};

namespace cuda {
void hidden_variance(const HiddenVarianceArgs&, Stream);
void hidden_variance_backward(const HiddenVarianceBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(hidden_variance, HiddenVarianceArgs)
PRESTISSIMO_CPU_KERNEL(hidden_variance_backward, HiddenVarianceBackwardArgs)
