// SPDX-License-Identifier: Apache-2.0
// y[b] = u[b] x[b] + v[b] f[b], two numbers for each sample; what the numbers are is the op's. Backward dx = u dy,
// df = v dy.
#pragma once
#include "samples.h"

namespace prestissimo {

struct Blend {
  Samples x, f;  // f: data null when absent
  SamplesOut y;
  int64_t batch, size;
  DType dtype;
};

struct BlendBackward {
  Samples dy;
  SamplesOut dx, df;  // data null when not wanted
  int64_t batch, size;
  DType dtype;
};

}  // namespace prestissimo
