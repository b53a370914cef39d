// SPDX-License-Identifier: Apache-2.0
#include "hierarchy_argmax.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

constexpr const char* kOp = "hierarchy_argmax";

void check_parents(const Array& parents, const Array* classes) {
  const int64_t* p = parents.as<int64_t>();
  for (int64_t s = 0; s < parents.size(0); ++s)
    if (p[s] < 0 || p[s] >= classes->size(0))
      fail(kOp, "parents must be from 0 to " + std::to_string(classes->size(0) - 1) + ", got " + std::to_string(p[s]) +
                    " at subclass " + std::to_string(s));
}

void hierarchy_argmax(Stream stream, const Array& features, const Array& subclasses, const Array& parents,
                      const Array* classes, const Array* workspace, const Array& out) {
  const Checker check(kOp, "features", features);
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(2).rows_contiguous("features", features);
  HierarchyArgmaxArgs a{};
  a.x = features.data, a.x_stride = features.stride(0), a.dtype = features.dtype;
  a.N = features.size(0), a.E = features.size(1);
  if (subclasses.ndim != 2 || subclasses.size(0) < 1)
    fail(kOp, "subclasses must be [at least 1, " + std::to_string(a.E) + "], got " + shape_text(subclasses));
  a.S = subclasses.size(0);
  check.shape("subclasses", subclasses, {a.S, a.E}).same_dtype("subclasses", subclasses);
  check.same_device("subclasses", subclasses).rows_contiguous("subclasses", subclasses);
  a.subclasses = subclasses.data, a.subclass_stride = subclasses.stride(0);
  check.shape("parents", parents, {a.S}).dtype("parents", parents, DType::int64).same_device("parents", parents);
  check.contiguous("parents", parents);
  a.parents = parents.as<int64_t>();
  if (classes) {
    if (classes->ndim != 2 || classes->size(0) < 1)
      fail(kOp, "classes must be [at least 1, " + std::to_string(a.E) + "], got " + shape_text(*classes));
    a.C = classes->size(0);
    check.shape("classes", *classes, {a.C, a.E}).same_dtype("classes", *classes).same_device("classes", *classes);
    check.rows_contiguous("classes", *classes);
    a.classes = classes->data, a.class_stride = classes->stride(0);
    if (parents.device.type == DeviceType::cpu) {
      check_parents(parents, classes);
    } else {
      if (!workspace) fail(kOp, "workspace must be given on a GPU");
      check.shape("workspace", *workspace, {a.S, a.E}).same_dtype("workspace", *workspace);
      check.same_device("workspace", *workspace).contiguous("workspace", *workspace);
      a.workspace = workspace->data;
    }
  }
  check.shape("out", out, {a.N}).dtype("out", out, DType::int64).same_device("out", out).contiguous("out", out);
  a.out = out.as<int64_t>();
  if (a.N == 0) return;
  PRESTISSIMO_RUN(hierarchy_argmax, features, a, stream);
}

}  // namespace

PRESTISSIMO_OP(hierarchy_argmax, "features", "subclasses", "parents", "classes", "workspace", "out")

}  // namespace prestissimo
