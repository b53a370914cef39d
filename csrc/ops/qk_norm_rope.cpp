// SPDX-License-Identifier: Apache-2.0
#include "qk_norm_rope.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

HeadNorm parse_norm(const char* op, std::string_view text) {
  if (text == "none") return HeadNorm::none;
  if (text == "layer") return HeadNorm::layer;
  if (text == "rms") return HeadNorm::rms;
  if (text == "dyt") return HeadNorm::dyt;
  fail(op, "norm must be 'none', 'layer', 'rms' or 'dyt', got '" + std::string(text) + "'");
}

Pairing parse_pairing(const char* op, std::string_view text) {
  if (text == "half") return Pairing::half;
  if (text == "interleaved") return Pairing::interleaved;
  fail(op, "pairing must be 'half' or 'interleaved', got '" + std::string(text) + "'");
}

HeadOutput head_output(const Array& a) { return {address(a), a.strides[0], a.strides[1], a.strides[2]}; }
HeadView head_view(const Array& a) {
  const HeadOutput v = head_output(a);
  return {v.data, v.batch_stride, v.time_stride, v.head_stride};
}

// H heads of a packed [B, T, (H + 2 Hk) D] from head `first` on, as [B, T, H, D].
Array heads_of(const Array& packed, int64_t first, int64_t heads, int64_t dim) {
  Array a = packed;
  a.ndim = 4;
  a.shape[2] = heads;
  a.shape[3] = dim;
  a.strides[2] = dim * packed.strides[2];
  a.strides[3] = packed.strides[2];
  if (a.data) a.data = static_cast<char*>(a.data) + first * a.strides[2] * item_size(a.dtype);
  return a;
}

// q and k of the arguments, whichever way they come.
struct Inputs {
  Array q, k;
  bool has_k;
};
Inputs unpack(const char* op, const Array& qkv, const Array* k, int64_t heads, int64_t kv_heads) {
  if (qkv.ndim == 4) {
    if (heads || kv_heads) fail(op, "heads must be left out beside q [B, T, H, D], which has them");
    return {qkv, k ? *k : Array{}, k != nullptr};
  }
  if (qkv.ndim != 3)
    fail(op, "qkv must be [B, T, (heads + 2 kv_heads) D], or q [B, T, H, D], got shape " + shape_text(qkv));
  if (k) fail(op, "k must be left out beside a packed qkv");
  if (heads < 1) fail(op, "heads must be at least 1, got " + std::to_string(heads));
  if (kv_heads < 1) fail(op, "kv_heads must be at least 1, got " + std::to_string(kv_heads));
  const int64_t n = heads + 2 * kv_heads;
  if (qkv.shape[2] % n)
    fail(op, "qkv must have a last dimension that is a multiple of heads + 2 kv_heads = " + std::to_string(n) +
                 ", got shape " + shape_text(qkv));
  const int64_t dim = qkv.shape[2] / n;
  return {heads_of(qkv, 0, heads, dim), heads_of(qkv, heads, kv_heads, dim), true};
}

struct Vectors {
  const Array *q_weight, *k_weight, *q_bias, *k_bias, *q_alpha, *k_alpha;
};

// Of [D] (or [1] for alpha), in the dtype of q or float32, all the same.
void check_vectors(const Checker& check, const char* op, const Vectors& v, QkNormRopeArgs& a, bool has_k) {
  const struct {
    const char* name;
    const Array* array;
    bool allowed, of_k;
    int64_t size;
    const void** to;
  } all[] = {{"q_weight", v.q_weight, a.norm != HeadNorm::none, false, a.dim, &a.q.weight},
             {"k_weight", v.k_weight, a.norm != HeadNorm::none, true, a.dim, &a.k.weight},
             {"q_bias", v.q_bias, a.norm != HeadNorm::none, false, a.dim, &a.q.bias},
             {"k_bias", v.k_bias, a.norm != HeadNorm::none, true, a.dim, &a.k.bias},
             {"q_alpha", v.q_alpha, a.norm == HeadNorm::dyt, false, 1, &a.q.alpha},
             {"k_alpha", v.k_alpha, a.norm == HeadNorm::dyt, true, 1, &a.k.alpha}};
  const Array* first = nullptr;
  for (const auto& e : all) {
    if (!e.array) {
      if (e.size == 1 && a.norm == HeadNorm::dyt && (has_k || !e.of_k))
        fail(op, std::string(e.name) + " must be there for norm 'dyt'");
      continue;
    }
    if (!e.allowed) fail(op, std::string(e.name) + " must be left out for this norm");
    if (e.of_k && !has_k) fail(op, std::string(e.name) + " must be left out where there is no k");
    check.shape(e.name, *e.array, {e.size}).same_device(e.name, *e.array).contiguous(e.name, *e.array);
    if (e.array->dtype != DType::float32) check.same_dtype(e.name, *e.array);
    if (first && e.array->dtype != first->dtype)
      throw ArgumentTypeError(std::string(op) + ": " + e.name + " must have the dtype of the other vectors, " +
                              name(first->dtype) + ", got " + name(e.array->dtype));
    first = e.array;
    *e.to = address(*e.array);
    a.vectors_dtype = e.array->dtype;
  }
}

QkNormRopeArgs checked(const Checker& check, const char* op, const Inputs& in, const Array* cos, const Array* sin,
                       const Vectors& vectors, std::string_view norm, double eps, std::string_view pairing) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).rows_contiguous("qkv", in.q);
  QkNormRopeArgs a{};
  a.batch = in.q.shape[0];
  a.time = in.q.shape[1];
  a.dim = in.q.shape[3];
  a.q.x = head_view(in.q);
  a.q.heads = in.q.shape[2];
  a.dtype = a.vectors_dtype = in.q.dtype;
  if (in.has_k) {
    if (in.k.ndim != 4 || in.k.shape[0] != a.batch || in.k.shape[1] != a.time || in.k.shape[3] != a.dim)
      fail(op, "k must be [" + std::to_string(a.batch) + ", " + std::to_string(a.time) + ", heads, " +
                   std::to_string(a.dim) + "], got " + shape_text(in.k));
    check.same_dtype("k", in.k).same_device("k", in.k).rows_contiguous("k", in.k);
    a.k.x = head_view(in.k);
    a.k.heads = in.k.shape[2];
  }
  a.norm = parse_norm(op, norm);
  a.pairing = parse_pairing(op, pairing);
  if (!(eps >= 0)) fail(op, "eps must be at least 0, got " + std::to_string(eps));
  a.eps = static_cast<float>(eps);
  if (cos) {
    if (cos->ndim != 2 || cos->shape[0] != a.time || 2 * cos->shape[1] > a.dim)
      fail(op, "cos must be [" + std::to_string(a.time) + ", at most " + std::to_string(a.dim / 2) + "], got " +
                   shape_text(*cos));
    if (!sin) fail(op, "sin must be there beside cos");
    a.half = cos->shape[1];
    check.shape("sin", *sin, {a.time, a.half});
    for (const auto& [name, table] : {std::pair{"cos", cos}, std::pair{"sin", sin}})
      check.dtype(name, *table, DType::float32).same_device(name, *table).contiguous(name, *table);
    a.cos = cos->as<float>();
    a.sin = sin->as<float>();
  } else if (sin) {
    fail(op, "cos must be there beside sin");
  }
  check_vectors(check, op, vectors, a, in.has_k);
  return a;
}

void check_heads(const Checker& check, const char* name, const Array& a, const Array& x) {
  check.shape(name, a, {x.shape[0], x.shape[1], x.shape[2], x.shape[3]}).same_dtype(name, a).same_device(name, a);
  check.rows_contiguous(name, a);
}

void qk_norm_rope(Stream stream, const Array& qkv, const Array* k, const Array* cos, const Array* sin,
                  const Array* q_weight, const Array* k_weight, const Array* q_bias, const Array* k_bias,
                  const Array* q_alpha, const Array* k_alpha, int64_t heads, int64_t kv_heads, std::string_view norm,
                  double eps, std::string_view pairing, const Array& q_out, const Array* k_out) {
  const char* op = "qk_norm_rope";
  const Checker check(op, "qkv", qkv);
  const Inputs in = unpack(op, qkv, k, heads, kv_heads);
  QkNormRopeArgs a =
      checked(check, op, in, cos, sin, {q_weight, k_weight, q_bias, k_bias, q_alpha, k_alpha}, norm, eps, pairing);
  check_heads(check, "q_out", q_out, in.q);
  a.q.y = head_output(q_out);
  if (in.has_k != (k_out != nullptr)) fail(op, "k_out must be there exactly where k is");
  if (k_out) {
    check_heads(check, "k_out", *k_out, in.k);
    a.k.y = head_output(*k_out);
  }
  if (a.batch * a.time * a.dim == 0 || a.q.heads + a.k.heads == 0) return;
  PRESTISSIMO_RUN(qk_norm_rope, qkv, a, stream);
}

void qk_norm_rope_backward(Stream stream, const Array& dq_out, const Array* dk_out, const Array& qkv, const Array* k,
                           const Array* cos, const Array* sin, const Array* q_weight, const Array* k_weight,
                           const Array* q_bias, const Array* k_bias, const Array* q_alpha, const Array* k_alpha,
                           int64_t heads, int64_t kv_heads, std::string_view norm, double eps, std::string_view pairing,
                           const Array& partial, const Array& dqkv, const Array* dk, const Array* dq_weight,
                           const Array* dk_weight, const Array* dq_bias, const Array* dk_bias, const Array* dq_alpha,
                           const Array* dk_alpha) {
  const char* op = "qk_norm_rope_backward";
  const Checker check(op, "qkv", qkv);
  const Inputs in = unpack(op, qkv, k, heads, kv_heads);
  QkNormRopeBackwardArgs a{};
  a.forward =
      checked(check, op, in, cos, sin, {q_weight, k_weight, q_bias, k_bias, q_alpha, k_alpha}, norm, eps, pairing);
  check.same_dtype("dqkv", dqkv).same_device("dqkv", dqkv).rows_contiguous("dqkv", dqkv);
  const Inputs out = unpack(op, dqkv, dk, heads, kv_heads);
  check_heads(check, "dqkv", out.q, in.q);
  check_heads(check, "dq_out", dq_out, in.q);
  a.q.dy = head_view(dq_out);
  a.q.dx = head_output(out.q);
  if (in.has_k != (dk_out != nullptr) || in.has_k != out.has_k) fail(op, "dk_out must be there exactly where k is");
  if (in.has_k) {
    check_heads(check, "dk", out.k, in.k);
    check_heads(check, "dk_out", *dk_out, in.k);
    a.k.dy = head_view(*dk_out);
    a.k.dx = head_output(out.k);
  }
  const auto gradient = [&](const char* name, const Array* d, const Array* of) -> void* {
    if (!d) return nullptr;
    if (!of) fail(op, std::string(name) + " must be left out where its vector is");
    check.shape(name, *d, {of->shape[0]}).dtype(name, *d, of->dtype).same_device(name, *d).contiguous(name, *d);
    return address(*d);
  };
  a.q.dweight = gradient("dq_weight", dq_weight, q_weight);
  a.k.dweight = gradient("dk_weight", dk_weight, k_weight);
  a.q.dbias = gradient("dq_bias", dq_bias, q_bias);
  a.k.dbias = gradient("dk_bias", dk_bias, k_bias);
  a.q.dalpha = gradient("dq_alpha", dq_alpha, q_alpha);
  a.k.dalpha = gradient("dk_alpha", dk_alpha, k_alpha);
  check.dtype("partial", partial, DType::float32).same_device("partial", partial).contiguous("partial", partial);
  check.shape("partial", partial, {partial_size(a)});
  a.q.partial = partial.as<float>();
  a.k.partial = a.q.partial + head_sums(a.q).count * head_rows(a.forward, a.forward.q) * a.forward.dim;
  if (a.forward.dim == 0 || a.forward.q.heads + a.forward.k.heads == 0) return;
  PRESTISSIMO_RUN(qk_norm_rope_backward, qkv, a, stream);
}

}  // namespace

PRESTISSIMO_OP(qk_norm_rope, "qkv", "k", "cos", "sin", "q_weight", "k_weight", "q_bias", "k_bias", "q_alpha", "k_alpha",
               "heads", "kv_heads", "norm", "eps", "pairing", "q_out", "k_out")
PRESTISSIMO_OP(qk_norm_rope_backward, "dq_out", "dk_out", "qkv", "k", "cos", "sin", "q_weight", "k_weight", "q_bias",
               "k_bias", "q_alpha", "k_alpha", "heads", "kv_heads", "norm", "eps", "pairing", "partial", "dqkv", "dk",
               "dq_weight", "dk_weight", "dq_bias", "dk_bias", "dq_alpha", "dk_alpha")

}  // namespace prestissimo
