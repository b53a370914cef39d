// SPDX-License-Identifier: Apache-2.0
// y = x + branch * g,   g = gate  (plain)   or   1 / (1 + e^(gate - 1))  (sigmoid);   gate [B, C]
//
// Backward: dx = dy (the caller's),  dbranch = dy * g,  dgate = g' * sum over time of dy * branch,
// g' = 1 (plain) or -g (1 - g) (sigmoid).
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

enum class GateForm : uint8_t { plain, sigmoid };

inline GateForm parse_gate_form(const char* op, std::string_view text) {
  if (text == "plain") return GateForm::plain;
  if (text == "sigmoid") return GateForm::sigmoid;
  fail(op, "gate_form must be 'plain' or 'sigmoid', got '" + std::string(text) + "'");
}

inline void check_gate(const Checker& check, const char* name, const Array& gate, const Array& x) {
  check.shape(name, gate, {x.size(0), x.size(2)}).same_dtype(name, gate).same_device(name, gate);
  check.rows_contiguous(name, gate);
}

struct GatedResidualArgs {
  RowView x, branch, gate;
  RowOutput y;
  int64_t batch, time, channels;
  GateForm form;
  DType dtype;         // of x, gate and y
  DType branch_dtype;  // the same, or 16 bits beside float32
};

struct GatedResidualBackwardArgs {
  RowView dy, branch, gate;
  RowOutput dbranch, dgate;  // data null when not wanted
  float* partial;            // [B][time_blocks][C] where dgate is wanted
  int64_t batch, time, channels;
  GateForm form;
  DType dtype;         // of dy, gate and dgate
  DType branch_dtype;  // of branch and dbranch
};

namespace cuda {
void gated_residual(const GatedResidualArgs&, Stream);
void gated_residual_backward(const GatedResidualBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(gated_residual, GatedResidualArgs)
PRESTISSIMO_CPU_KERNEL(gated_residual_backward, GatedResidualBackwardArgs)
