// SPDX-License-Identifier: Apache-2.0
#include "info_nce.h"

#include "../registry.h"
#include "dispatch.h"
#include "pairs.h"

namespace prestissimo {
namespace {

Contrast parse_form(const char* op, std::string_view text) {
  if (text == "symmetric") return Contrast::symmetric;
  if (text == "rows") return Contrast::rows;
  if (text == "sigmoid") return Contrast::sigmoid;
  fail(op, "form must be 'symmetric', 'rows' or 'sigmoid', got '" + std::string(text) + "'");
}

struct Pairs {
  const Array &a, &b, &logit_scale;
  const Array *logit_bias, *mask, *a_group, *b_group;
  std::string_view form;
  int64_t offset, normalize;
};

const float* number(const Checker& check, const char* name, const Array& a) {
  check.shape(name, a, {}).dtype(name, a, DType::float32).same_device(name, a);
  return a.as<float>();
}

const int64_t* groups(const Checker& check, const char* name, const Array* a, int64_t n) {
  if (!a) return nullptr;
  check.shape(name, *a, {n}).dtype(name, *a, DType::int64).same_device(name, *a).contiguous(name, *a);
  return a->as<int64_t>();
}

double* sums(const Checker& check, const char* name, const Array& a, bool used, int64_t n) {
  check.shape(name, a, {used ? n : 0}).dtype(name, a, DType::float64).same_device(name, a).contiguous(name, a);
  return used ? a.as<double>() : nullptr;
}

InfoNceArgs checked(const Checker& check, const char* op, const Pairs& p, const Array& row_lse,
                    const Array& column_lse) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(2).rows_contiguous("a", p.a);
  InfoNceArgs r{};
  r.form = parse_form(op, p.form);
  r.a = p.a.data, r.a_stride = p.a.stride(0);
  r.b = p.b.data, r.b_stride = p.b.stride(0);
  r.M = p.a.size(0), r.E = p.a.size(1), r.N = p.b.ndim == 2 && r.form != Contrast::symmetric ? p.b.size(0) : r.M;
  check.shape("b", p.b, {r.N, r.E}).same_dtype("b", p.b).same_device("b", p.b).rows_contiguous("b", p.b);
  r.dtype = p.a.dtype;
  r.offset = p.offset;
  if (r.offset < 0 || r.offset + r.M > r.N)
    fail(op, "offset must be between 0 and " + std::to_string(r.N - r.M) + ", got " + std::to_string(r.offset));
  r.scale = number(check, "logit_scale", p.logit_scale);
  if (p.logit_bias) {
    if (r.form != Contrast::sigmoid) fail(op, "logit_bias goes with form 'sigmoid' only");
    r.bias = number(check, "logit_bias", *p.logit_bias);
  }
  if (p.mask) {
    check.shape("mask", *p.mask, {r.M, r.N}).dtype("mask", *p.mask, DType::boolean).same_device("mask", *p.mask);
    check.rows_contiguous("mask", *p.mask);
    r.mask = p.mask->as<uint8_t>(), r.mask_stride = p.mask->stride(0);
  }
  r.a_group = groups(check, "a_group", p.a_group, r.M);
  r.b_group = groups(check, "b_group", p.b_group, r.N);
  if (!p.a_group != !p.b_group) fail(op, "a_group and b_group go together");
  r.normalize = p.normalize != 0;
  r.row_lse = sums(check, "row_lse", row_lse, r.form != Contrast::sigmoid, r.M);
  r.column_lse = sums(check, "column_lse", column_lse, r.form == Contrast::symmetric, r.N);
  return r;
}

void info_nce(Stream stream, const Array& a, const Array& b, const Array& logit_scale, const Array* logit_bias,
              const Array* mask, const Array* a_group, const Array* b_group, std::string_view form, int64_t offset,
              int64_t normalize, const Array& loss, const Array& row_lse, const Array& column_lse,
              const Array* workspace) {
  const Checker check("info_nce", "a", a);
  const Pairs pairs{a, b, logit_scale, logit_bias, mask, a_group, b_group, form, offset, normalize};
  InfoNceArgs r = checked(check, "info_nce", pairs, row_lse, column_lse);
  check.shape("loss", loss, {}).dtype("loss", loss, DType::float32).same_device("loss", loss);
  r.loss = loss.as<float>();
  r.workspace = pair_workspace("info_nce", workspace, a, &r.workspace_size);
  PRESTISSIMO_RUN(info_nce, a, r, stream);
}

void* gradient(const Checker& check, const char* name, const Array* d, const Array& of) {
  if (!d) return nullptr;
  check.shape(name, *d, {of.size(0), of.size(1)}).same_dtype(name, *d).same_device(name, *d).contiguous(name, *d);
  return d->data;
}

void info_nce_backward(Stream stream, const Array& a, const Array& b, const Array& logit_scale, const Array* logit_bias,
                       const Array* mask, const Array* a_group, const Array* b_group, const Array& row_lse,
                       const Array& column_lse, const Array& dloss, std::string_view form, int64_t offset,
                       int64_t normalize, const Array* da, const Array* db, const Array& dlogit_scale,
                       const Array& dlogit_bias, const Array* workspace) {
  constexpr const char* op = "info_nce_backward";
  const Checker check(op, "a", a);
  const Pairs pairs{a, b, logit_scale, logit_bias, mask, a_group, b_group, form, offset, normalize};
  InfoNceBackwardArgs r{};
  r.forward = checked(check, op, pairs, row_lse, column_lse);
  r.dloss = number(check, "dloss", dloss);
  r.da = gradient(check, "da", da, a);
  r.db = gradient(check, "db", db, b);
  number(check, "dlogit_scale", dlogit_scale), number(check, "dlogit_bias", dlogit_bias);
  r.dscale = dlogit_scale.as<float>(), r.dbias = dlogit_bias.as<float>();
  r.forward.workspace = pair_workspace(op, workspace, a, &r.forward.workspace_size);
  PRESTISSIMO_RUN(info_nce_backward, a, r, stream);
}

}  // namespace

PRESTISSIMO_OP(info_nce, "a", "b", "logit_scale", "logit_bias", "mask", "a_group", "b_group", "form", "offset",
               "normalize", "loss", "row_lse", "column_lse", "workspace")
PRESTISSIMO_OP(info_nce_backward, "a", "b", "logit_scale", "logit_bias", "mask", "a_group", "b_group", "row_lse",
               "column_lse", "dloss", "form", "offset", "normalize", "da", "db", "dlogit_scale", "dlogit_bias",
               "workspace")

}  // namespace prestissimo
