// SPDX-License-Identifier: Apache-2.0
#include "gated_residual_adaln.h"

#include "../registry.h"
#include "adaln_arguments.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void check_output(const Checker& check, const char* op, const char* name, const Array& y, const Array& branch,
                  const Array& x) {
  check_branch(check, op, name, y, x);
  if (y.dtype != branch.dtype) fail(op, std::string(name) + " must have the dtype of branch");
}

void gated_residual_adaln(Stream stream, const Array& x, const Array& branch, const Array* gate, const Array* shift,
                          const Array* scale, const Array* weight, const Array* bias, double eps, std::string_view norm,
                          std::string_view gate_form, const Array& r, const Array& y) {
  const char* op = "gated_residual_adaln";
  const Checker check(op, "x", x);
  GatedResidualAdalnArgs a{};
  a.adaln = adaln_arguments(check, op, x, shift, scale, weight, bias, eps, norm);
  check_branch(check, op, "branch", branch, x);
  if (gate) check_gate(check, "gate", *gate, x);
  check_like(check, "r", r, x);
  check_output(check, op, "y", y, branch, x);
  a.adaln.x = rows(r);
  a.adaln.y = row_output(y);
  a.x = rows(x);
  a.branch = rows(branch);
  if (gate) a.gate = rows(*gate);
  a.r = row_output(r);
  a.form = parse_gate_form(op, gate_form);
  a.branch_dtype = branch.dtype;
  if (x.numel() == 0) return;
  PRESTISSIMO_RUN(gated_residual_adaln, x, a, stream);
}

void gated_residual_adaln_backward(Stream stream, const Array& dr, const Array& dy, const Array& r, const Array& branch,
                                   const Array* gate, const Array* shift, const Array* scale, const Array* weight,
                                   const Array* bias, double eps, std::string_view norm, std::string_view gate_form,
                                   const Array& partial, const Array& dx, const Array* dbranch, const Array* dgate,
                                   const Array* dshift, const Array* dscale, const Array* dweight, const Array* dbias) {
  const char* op = "gated_residual_adaln_backward";
  const Checker check(op, "r", r);
  GatedResidualAdalnBackwardArgs a{};
  a.adaln.forward = adaln_arguments(check, op, r, shift, scale, weight, bias, eps, norm);
  adaln_gradients(check, a.adaln, r, dshift, dscale, dweight, dbias);
  check_like(check, "dr", dr, r);
  check_like(check, "dx", dx, r);
  check_branch(check, op, "branch", branch, r);
  check_output(check, op, "dy", dy, branch, r);
  if (gate) check_gate(check, "gate", *gate, r);
  if (dbranch) check_output(check, op, "dbranch", *dbranch, branch, r);
  if (dgate && !gate) fail(op, "dgate needs a gate");
  if (dgate) check_gate(check, "dgate", *dgate, r);
  a.adaln.dy = rows(dy);
  a.adaln.dx = row_output(dx);
  a.dr = rows(dr);
  a.branch = rows(branch);
  if (gate) a.gate = rows(*gate);
  if (dbranch) a.dbranch = row_output(*dbranch);
  if (dgate) a.dgate = row_output(*dgate);
  a.form = parse_gate_form(op, gate_form);
  a.branch_dtype = branch.dtype;
  check.dtype("partial", partial, DType::float32).same_device("partial", partial).contiguous("partial", partial);
  check.shape("partial", partial, {partial_size(a)});
  a.adaln.partial = partial.as<float>();
  a.gate_partial = partial.as<float>() + partial_size(a.adaln);
  if (r.size(2) == 0) return;
  PRESTISSIMO_RUN(gated_residual_adaln_backward, r, a, stream);
}

}  // namespace

PRESTISSIMO_OP(gated_residual_adaln, "x", "branch", "gate", "shift", "scale", "weight", "bias", "eps", "norm",
               "gate_form", "r", "y")
PRESTISSIMO_OP(gated_residual_adaln_backward, "dr", "dy", "r", "branch", "gate", "shift", "scale", "weight", "bias",
               "eps", "norm", "gate_form", "partial", "dx", "dbranch", "dgate", "dshift", "dscale", "dweight", "dbias")

}  // namespace prestissimo
