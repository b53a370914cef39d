// SPDX-License-Identifier: Apache-2.0
// y = p - f g for every parameter p and its direction g,  f = rate sqrt(magnitude) / sqrt(direction),  0 where
// `direction` is 0: both are squared norms over all tensors (ops/squared_norm.h).
#pragma once
#include "../cpu/isa.h"
#include "tensor_group.h"

namespace prestissimo {

struct GraftUpdateArgs {
  TensorGroup<3> group;                // p, g, y
  const float *magnitude, *direction;  // one number each
  double rate;
  DType dtype;
  bool large;  // all groups together: results go past the caches
};

namespace cuda {
void graft_update(const GraftUpdateArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(graft_update, GraftUpdateArgs)
