// SPDX-License-Identifier: Apache-2.0
#include "topk_rows.h"

#include <cmath>

namespace prestissimo {
namespace {

const int64_t* row_numbers(const char* op, const Checker& check, const char* name, const Array* a, int64_t rows,
                           int64_t most) {
  if (!a) return nullptr;
  check.shape(name, *a, {rows}).dtype(name, *a, DType::int64).same_device(name, *a).contiguous(name, *a);
  if (a->device.type == DeviceType::cpu)
    for (int64_t r = 0; r < rows; ++r)
      if (const int64_t v = a->as<int64_t>()[r]; v < 0 || v > most)
        fail(op, std::string(name) + " must be from 0 to " + std::to_string(most) + ", got " + std::to_string(v) +
                     " at row " + std::to_string(r));
  return a->as<int64_t>();
}

void check_offsets(const char* op, const Array& offsets, int64_t rows, int64_t size) {
  const int64_t* o = offsets.as<int64_t>();
  if (o[0] != 0) fail(op, "offsets must begin with 0, got " + std::to_string(o[0]));
  for (int64_t r = 0; r < rows; ++r)
    if (o[r + 1] < o[r])
      fail(op, "offsets must not decrease, got " + std::to_string(o[r + 1]) + " after " + std::to_string(o[r]));
  if (o[rows] != size)
    fail(op,
         "offsets must end with the number of scores, " + std::to_string(size) + ", got " + std::to_string(o[rows]));
}

}  // namespace

TopkRows checked_rows(const char* op, const Array& scores, int64_t k, const Array* counts, const Array* offsets,
                      double temperature, bool hard, int64_t selected, const Array* slots, const Array* noise,
                      int64_t most) {
  const Checker check(op, "scores", scores);
  check.dtype({DType::float32, DType::bfloat16, DType::float16})
      .ndim(offsets ? 1 : 2)
      .rows_contiguous("scores", scores);
  TopkRows t{};
  t.scores = scores.data;
  t.size = scores.numel();
  if (offsets) {
    check.dtype("offsets", *offsets, DType::int64).same_device("offsets", *offsets).contiguous("offsets", *offsets);
    if (offsets->ndim != 1 || offsets->size(0) < 1) fail(op, "offsets must be [rows + 1], got " + shape_text(*offsets));
    t.offsets = offsets->as<int64_t>();
    t.rows = offsets->size(0) - 1;
    if (offsets->device.type == DeviceType::cpu) check_offsets(op, *offsets, t.rows, t.size);
  } else {
    t.rows = scores.size(0);
    t.length = scores.size(1);
    t.row_stride = scores.stride(0);
  }
  t.counts = row_numbers(op, check, "k", counts, t.rows, most);
  t.k = counts ? most : k;
  if (!counts && (k < 0 || k > most))
    fail(op, "k must be from 0 to " + std::to_string(most) + ", got " + std::to_string(k));
  t.slots = row_numbers(op, check, "slots", slots, t.rows, INT64_MAX);
  t.selected = selected;
  if (selected < -1) fail(op, "slots must be at least 0, got " + std::to_string(selected));
  if (!(temperature > 0) || !std::isfinite(temperature))
    fail(op, "temperature must be positive, got " + std::to_string(temperature));
  t.temperature = static_cast<float>(temperature);
  t.hard = hard;
  t.dtype = scores.dtype;
  if (noise) {
    if (scores.ndim == 1)
      check.shape("noise", *noise, {scores.size(0)});
    else
      check.shape("noise", *noise, {scores.size(0), scores.size(1)});
    check.dtype("noise", *noise, DType::float32).same_device("noise", *noise).contiguous("noise", *noise);
    t.noise = noise->as<float>();
  }
  return t;
}

void check_like_scores(const char* op, const char* name, const Array& a, const Array& scores) {
  const Checker check(op, "scores", scores);
  if (scores.ndim == 1)
    check.shape(name, a, {scores.size(0)});
  else
    check.shape(name, a, {scores.size(0), scores.size(1)});
  check.same_dtype(name, a).same_device(name, a).contiguous(name, a);
}

float* checked_workspace(const char* op, const Array* workspace, const Array& scores, int64_t planes) {
  if (scores.device.type == DeviceType::cpu) return nullptr;
  if (!workspace) fail(op, "workspace must be given on a GPU");
  const Checker check(op, "scores", scores);
  check.dtype("workspace", *workspace, DType::float32).same_device("workspace", *workspace);
  check.shape("workspace", *workspace, {planes * scores.numel()});
  return workspace->as<float>();
}

}  // namespace prestissimo
