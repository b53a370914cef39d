// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include <cmath>

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

constexpr const char* kForward = "attention";
constexpr const char* kBackward = "attention_backward";

HeadsOutput heads_output(const Array& a) { return {a.data, a.stride(0), a.stride(1), a.stride(2)}; }
HeadsView heads(const Array& a) { return {a.data, a.stride(0), a.stride(1), a.stride(2)}; }

void check_like(const Checker& check, const char* name, const Array& a, const Array& expected) {
  check.shape(name, a, {expected.size(0), expected.size(1), expected.size(2), expected.size(3)});
  check.same_dtype(name, a).same_device(name, a).rows_contiguous(name, a);
}

int64_t reach(const char* op, int64_t keys) {
  if (keys < -1) fail(op, "window must be two numbers of at least -1 (no limit), got " + std::to_string(keys));
  return keys < 0 ? INT64_MAX : keys;
}

AttentionArgs checked(const Checker& check, const char* op, const Array& q, const Array& k, const Array& v,
                      const Array* q2, const Array* k2, const Array* mask, const Array* lengths, int64_t left,
                      int64_t right, double scale) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(4).rows_contiguous("q", q);
  const int64_t B = q.size(0), H = q.size(2), D = q.size(3);
  if (k.ndim != 4) fail(op, "k must have 4 dimensions, got shape " + shape_text(k));
  const int64_t S = k.size(1), Hk = k.size(2);
  check.shape("k", k, {B, S, Hk, D}).same_dtype("k", k).same_device("k", k).rows_contiguous("k", k);
  if (Hk == 0 ? H != 0 : H % Hk != 0)
    fail(op, "k must have a number of heads that divides q's " + std::to_string(H) + ", got " + shape_text(k));
  check_like(check, "v", v, k);
  if (q2) check_like(check, "q2", *q2, q);
  if (k2) check_like(check, "k2", *k2, k);
  if (!q2 != !k2) fail(op, std::string(q2 ? "k2" : "q2") + " must be given where " + (q2 ? "q2" : "k2") + " is");
  if (mask) check.shape("mask", *mask, {B, S}).dtype("mask", *mask, DType::boolean).same_device("mask", *mask);
  if (mask) check.rows_contiguous("mask", *mask);
  if (lengths) check.shape("lengths", *lengths, {B}).dtype("lengths", *lengths, DType::int64);
  if (lengths) check.same_device("lengths", *lengths).contiguous("lengths", *lengths);
  if (!(scale > 0) || !std::isfinite(scale))
    fail(op, "scale must be positive and finite, got " + std::to_string(scale));
  AttentionArgs a{};
  a.q = heads(q);
  a.k = heads(k);
  a.v = heads(v);
  if (q2) a.q2 = heads(*q2), a.k2 = heads(*k2);
  if (mask) a.mask = mask->as<const bool>(), a.mask_stride = mask->stride(0);
  a.lengths = lengths ? lengths->as<const int64_t>() : nullptr;
  a.batch = B;
  a.queries = q.size(1);
  a.keys = S;
  a.heads = H;
  a.kv_heads = Hk;
  a.head_dim = D;
  a.left = reach(op, left);
  a.right = reach(op, right);
  a.scale = static_cast<float>(scale);
  a.dtype = q.dtype;
  a.softmaxes = q2 ? 2 : 1;
  return a;
}

float* log_sum_exp(const Checker& check, const AttentionArgs& a, const Array& lse) {
  check.shape("lse", lse, {a.softmaxes, a.batch, a.heads, a.queries}).dtype("lse", lse, DType::float32);
  check.same_device("lse", lse).contiguous("lse", lse);
  return lse.as<float>();
}

void attention(Stream stream, const Array& q, const Array& k, const Array& v, const Array* q2, const Array* k2,
               const Array* mask, const Array* lengths, int64_t left, int64_t right, double scale, const Array& y,
               const Array* y2, const Array* lse) {
  const Checker check(kForward, "q", q);
  AttentionArgs a = checked(check, kForward, q, k, v, q2, k2, mask, lengths, left, right, scale);
  check_like(check, "y", y, q);
  a.y = heads_output(y);
  if (y2) {
    check_like(check, "y2", *y2, q);
    a.y2 = heads_output(*y2);
  }
  if (lse) a.lse = log_sum_exp(check, a, *lse);
  if (q.numel() == 0) return;
  PRESTISSIMO_RUN(attention, q, a, stream);
}

void attention_backward(Stream stream, const Array& dy, const Array& q, const Array& k, const Array& v, const Array* q2,
                        const Array* k2, const Array* mask, const Array* lengths, int64_t left, int64_t right,
                        double scale, const Array& lse, const Array& dq, const Array& dk, const Array& dv,
                        const Array* dq2, const Array* dk2, const Array* rows) {
  const Checker check(kBackward, "q", q);
  AttentionBackwardArgs a{};
  a.forward = checked(check, kBackward, q, k, v, q2, k2, mask, lengths, left, right, scale);
  a.forward.lse = log_sum_exp(check, a.forward, lse);
  const auto gradient = [&](const char* name, const Array* d, const Array& of) {
    if (!d) fail(kBackward, std::string(name) + " must be given");
    check_like(check, name, *d, of);
    return heads_output(*d);
  };
  check_like(check, "dy", dy, q);
  a.dy = heads(dy);
  a.dq = gradient("dq", &dq, q);
  a.dk = gradient("dk", &dk, k);
  a.dv = gradient("dv", &dv, v);
  if (q2) a.dq2 = gradient("dq2", dq2, *q2), a.dk2 = gradient("dk2", dk2, *k2);
  if (q.device.type == DeviceType::cuda) {
    if (!rows) fail(kBackward, "rows must be given on CUDA");
    check.shape("rows", *rows, {2, a.forward.softmaxes, q.size(0), q.size(2), q.size(1)});
    check.dtype("rows", *rows, DType::float32).same_device("rows", *rows).contiguous("rows", *rows);
    a.rows = rows->as<float>();
  }
  if (q.size(0) == 0 || k.size(2) == 0 || q.size(3) == 0) return;
  PRESTISSIMO_RUN(attention_backward, q, a, stream);
}

}  // namespace

PRESTISSIMO_OP(attention, "q", "k", "v", "q2", "k2", "mask", "lengths", "left", "right", "scale", "y", "y2", "lse")
PRESTISSIMO_OP(attention_backward, "dy", "q", "k", "v", "q2", "k2", "mask", "lengths", "left", "right", "scale", "lse",
               "dq", "dk", "dv", "dq2", "dk2", "rows")

}  // namespace prestissimo
