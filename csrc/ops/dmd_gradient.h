// SPDX-License-Identifier: Apache-2.0
// y = nan_to_num((fake - real) / (mean |x - real| + eps)),  the mean over each sample: NaN is 0, infinities are the
// largest numbers of the dtype.
#pragma once
#include "../cpu/isa.h"
#include "sample_sums.h"

namespace prestissimo {

struct DmdGradientArgs {
  Samples x, fake, real;
  SamplesOut y;
  float* partial;  // [B][sum_blocks(size)]
  int64_t batch, size;
  float eps;
  DType dtype;
};

namespace cuda {
void dmd_gradient(const DmdGradientArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(dmd_gradient, DmdGradientArgs)
