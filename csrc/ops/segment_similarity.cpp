// SPDX-License-Identifier: Apache-2.0
#include "segment_similarity.h"

#include "../registry.h"
#include "dispatch.h"
#include "pairs.h"

namespace prestissimo {
namespace {

SegmentSimilarityArgs checked(const Checker& check, const char* op, const Array& segments, const Array& text,
                              const Array& temperature, const Array* mask) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3).rows_contiguous("segments", segments);
  SegmentSimilarityArgs r{};
  r.B = segments.size(0), r.S = segments.size(1), r.E = segments.size(2);
  if (r.S == 0) fail(op, "segments must have at least 1 segment, got shape " + shape_text(segments));
  if (r.B > 1 && segments.stride(0) != r.S * segments.stride(1))
    throw NotContiguous(std::string(op) + ": segments must have songs one behind the other");
  r.N = text.ndim == 2 ? text.size(0) : 0;
  check.shape("text", text, {r.N, r.E}).same_dtype("text", text).same_device("text", text);
  check.rows_contiguous("text", text);
  r.segments = segments.data, r.segment_stride = segments.stride(1);
  r.text = text.data, r.text_stride = text.stride(0);
  r.dtype = segments.dtype;
  check.shape("temperature", temperature, {}).dtype("temperature", temperature, DType::float32);
  check.same_device("temperature", temperature);
  r.temperature = temperature.as<float>();
  if (mask) {
    check.shape("mask", *mask, {r.B, r.S}).dtype("mask", *mask, DType::boolean).same_device("mask", *mask);
    check.rows_contiguous("mask", *mask);
    r.mask = mask->as<uint8_t>(), r.mask_stride = mask->stride(0);
  }
  return r;
}

void segment_similarity(Stream stream, const Array& segments, const Array& text, const Array& temperature,
                        const Array* mask, const Array& out) {
  constexpr const char* op = "segment_similarity";
  const Checker check(op, "segments", segments);
  SegmentSimilarityArgs r = checked(check, op, segments, text, temperature, mask);
  check.shape("out", out, {r.B, r.N}).same_dtype("out", out).same_device("out", out).contiguous("out", out);
  r.out = out.data;
  if (out.numel() == 0) return;
  PRESTISSIMO_RUN(segment_similarity, segments, r, stream);
}

void* gradient(const Checker& check, const char* name, const Array* d, std::initializer_list<int64_t> shape) {
  if (!d) return nullptr;
  check.shape(name, *d, shape).same_dtype(name, *d).same_device(name, *d).contiguous(name, *d);
  return d->data;
}

void segment_similarity_backward(Stream stream, const Array& segments, const Array& text, const Array& temperature,
                                 const Array* mask, const Array& dout, const Array* dsegments, const Array* dtext,
                                 const Array& dtemperature, const Array* workspace) {
  constexpr const char* op = "segment_similarity_backward";
  const Checker check(op, "segments", segments);
  SegmentSimilarityBackwardArgs r{};
  r.forward = checked(check, op, segments, text, temperature, mask);
  const SegmentSimilarityArgs& f = r.forward;
  check.shape("dout", dout, {f.B, f.N}).same_dtype("dout", dout).same_device("dout", dout);
  check.rows_contiguous("dout", dout);
  r.dout = dout.data, r.dout_stride = dout.stride(0);
  r.dsegments = gradient(check, "dsegments", dsegments, {f.B, f.S, f.E});
  r.dtext = gradient(check, "dtext", dtext, {f.N, f.E});
  check.shape("dtemperature", dtemperature, {}).dtype("dtemperature", dtemperature, DType::float32);
  check.same_device("dtemperature", dtemperature);
  r.dtemperature = dtemperature.as<float>();
  r.workspace = pair_workspace(op, workspace, segments, &r.workspace_size);
  PRESTISSIMO_RUN(segment_similarity_backward, segments, r, stream);
}

}  // namespace

PRESTISSIMO_OP(segment_similarity, "segments", "text", "temperature", "mask", "out")
PRESTISSIMO_OP(segment_similarity_backward, "segments", "text", "temperature", "mask", "dout", "dsegments", "dtext",
               "dtemperature", "workspace")

}  // namespace prestissimo
