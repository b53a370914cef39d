// SPDX-License-Identifier: Apache-2.0
// r = x + branch * g                  as gated_residual.h; without a gate g = 1
// y = norm(r) modulated               as adaln_modulate.h, of r as it is stored
//
// Backward, with d = dr + what adaln_modulate.h gives for dy at r: dx = d and the rest as gated_residual.h for dy = d.
#pragma once
#include "adaln_modulate.h"
#include "gated_residual.h"

namespace prestissimo {

struct GatedResidualAdalnArgs {
  AdalnModulateArgs adaln;  // x is r; y is of branch_dtype
  RowView x, branch, gate;  // gate: data null when absent
  RowOutput r;
  GateForm form;
  DType branch_dtype;  // of branch and y: that of x, or 16 bits beside float32
};

struct GatedResidualAdalnBackwardArgs {
  AdalnModulateBackwardArgs adaln;  // of y at r; dy is of branch_dtype, dx the sum of both gradients
  RowView dr, branch, gate;
  RowOutput dbranch, dgate;  // data null when not wanted
  float* gate_partial;       // [B][time_blocks][C] where dgate is wanted, behind adaln.partial
  GateForm form;
  DType branch_dtype;
};

inline int64_t partial_size(const GatedResidualAdalnBackwardArgs& a) {
  const AdalnModulateArgs& f = a.adaln.forward;
  return partial_size(a.adaln) + (a.dgate.data ? f.batch * time_blocks(f.time) * f.channels : 0);
}

namespace cuda {
void gated_residual_adaln(const GatedResidualAdalnArgs&, Stream);
void gated_residual_adaln_backward(const GatedResidualAdalnBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(gated_residual_adaln, GatedResidualAdalnArgs)
PRESTISSIMO_CPU_KERNEL(gated_residual_adaln_backward, GatedResidualAdalnBackwardArgs)
