// SPDX-License-Identifier: Apache-2.0
#include "hierarchy_probs.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

HierarchyProbsArgs checked(const char* op, const Array& x, const Array& z, const Array& parents) {
  const Checker check(op, "subclass_logits", x);
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(2).rows_contiguous("subclass_logits", x);
  HierarchyProbsArgs a{};
  a.N = x.size(0), a.S = x.size(1), a.dtype = x.dtype;
  if (z.ndim != 2 || z.size(0) != a.N || z.size(1) < 1)
    fail(op, "class_logits must be [" + std::to_string(a.N) + ", at least 1], got " + shape_text(z));
  a.C = z.size(1);
  check.same_dtype("class_logits", z).same_device("class_logits", z).rows_contiguous("class_logits", z);
  check.shape("parents", parents, {a.S}).dtype("parents", parents, DType::int64).same_device("parents", parents);
  check.contiguous("parents", parents);
  a.x = x.data, a.x_stride = x.stride(0);
  a.z = z.data, a.z_stride = z.stride(0);
  a.parents = parents.as<int64_t>();
  if (x.device.type == DeviceType::cpu)
    for (int64_t s = 0; s < a.S; ++s)
      if (a.parents[s] < 0 || a.parents[s] >= a.C)
        fail(op, "parents must be from 0 to " + std::to_string(a.C - 1) + ", got " + std::to_string(a.parents[s]) +
                     " at subclass " + std::to_string(s));
  return a;
}

void check_like(const char* op, const char* name, const Array& d, const Array& x, int64_t N, int64_t columns) {
  const Checker check(op, "subclass_logits", x);
  check.shape(name, d, {N, columns}).same_dtype(name, d).same_device(name, d).contiguous(name, d);
}

void hierarchy_probs(Stream stream, const Array& x, const Array& z, const Array& parents, const Array& out) {
  HierarchyProbsArgs a = checked("hierarchy_probs", x, z, parents);
  check_like("hierarchy_probs", "out", out, x, a.N, a.S);
  a.out = out.data;
  if (a.N == 0 || a.S == 0) return;
  PRESTISSIMO_RUN(hierarchy_probs, x, a, stream);
}

void hierarchy_probs_backward(Stream stream, const Array& dout, const Array& x, const Array& z, const Array& parents,
                              const Array* order, const Array* first, const Array& dx, const Array& dz) {
  constexpr const char* op = "hierarchy_probs_backward";
  HierarchyProbsBackwardArgs a{};
  a.forward = checked(op, x, z, parents);
  check_like(op, "dout", dout, x, a.forward.N, a.forward.S);
  check_like(op, "dsubclass_logits", dx, x, a.forward.N, a.forward.S);
  check_like(op, "dclass_logits", dz, x, a.forward.N, a.forward.C);
  if (x.device.type == DeviceType::cuda) {
    if (!order || !first) fail(op, "order and first must be given on a GPU");
    const Checker check(op, "subclass_logits", x);
    check.shape("order", *order, {a.forward.S}).dtype("order", *order, DType::int64).same_device("order", *order);
    check.shape("first", *first, {a.forward.C + 1}).dtype("first", *first, DType::int64).same_device("first", *first);
    check.contiguous("order", *order).contiguous("first", *first);
    a.order = order->as<int64_t>(), a.first = first->as<int64_t>();
  }
  a.dout = dout.data, a.dx = dx.data, a.dz = dz.data;
  if (a.forward.N == 0) return;
  PRESTISSIMO_RUN(hierarchy_probs_backward, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(hierarchy_probs, "subclass_logits", "class_logits", "parents", "out")
PRESTISSIMO_OP(hierarchy_probs_backward, "dout", "subclass_logits", "class_logits", "parents", "order", "first",
               "dsubclass_logits", "dclass_logits")

}  // namespace prestissimo
