// SPDX-License-Identifier: Apache-2.0
#include "gated_residual.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void gated_residual(Stream stream, const Array& x, const Array& branch, const Array& gate, std::string_view gate_form,
                    const Array& y) {
  const char* op = "gated_residual";
  const Checker check(op, "x", x);
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3).rows_contiguous("x", x);
  check_branch(check, op, "branch", branch, x);
  check_gate(check, "gate", gate, x);
  check.shape("y", y, {x.size(0), x.size(1), x.size(2)}).same_dtype("y", y).same_device("y", y);
  check.rows_contiguous("y", y);
  GatedResidualArgs a{};
  a.x = rows(x);
  a.branch = rows(branch);
  a.gate = rows(gate);
  a.y = row_output(y);
  a.batch = x.size(0);
  a.time = x.size(1);
  a.channels = x.size(2);
  a.form = parse_gate_form(op, gate_form);
  a.dtype = x.dtype;
  a.branch_dtype = branch.dtype;
  if (x.numel() == 0) return;
  PRESTISSIMO_RUN(gated_residual, x, a, stream);
}

void gated_residual_backward(Stream stream, const Array& dy, const Array& branch, const Array& gate,
                             std::string_view gate_form, const Array& partial, const Array* dbranch,
                             const Array* dgate) {
  const char* op = "gated_residual_backward";
  const Checker check(op, "dy", dy);
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3).rows_contiguous("dy", dy);
  check_branch(check, op, "branch", branch, dy);
  check_gate(check, "gate", gate, dy);
  if (dbranch) check_branch(check, op, "dbranch", *dbranch, dy);
  if (dgate) check_gate(check, "dgate", *dgate, dy);
  GatedResidualBackwardArgs a{};
  a.dy = rows(dy);
  a.branch = rows(branch);
  a.gate = rows(gate);
  if (dbranch) a.dbranch = row_output(*dbranch);
  if (dgate) a.dgate = row_output(*dgate);
  a.batch = dy.size(0);
  a.time = dy.size(1);
  a.channels = dy.size(2);
  a.form = parse_gate_form(op, gate_form);
  a.dtype = dy.dtype;
  a.branch_dtype = branch.dtype;
  check.dtype("partial", partial, DType::float32).same_device("partial", partial).contiguous("partial", partial);
  check.shape("partial", partial, {dgate ? a.batch * time_blocks(a.time) * a.channels : 0});
  a.partial = partial.as<float>();
  if (dbranch && dbranch->dtype != branch.dtype) fail(op, "dbranch must have the dtype of branch");
  if (a.channels == 0 || a.batch == 0) return;
  PRESTISSIMO_RUN(gated_residual_backward, dy, a, stream);
}

}  // namespace

PRESTISSIMO_OP(gated_residual, "x", "branch", "gate", "gate_form", "y")
PRESTISSIMO_OP(gated_residual_backward, "dy", "branch", "gate", "gate_form", "partial", "dbranch", "dgate")

}  // namespace prestissimo
