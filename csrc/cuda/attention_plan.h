// SPDX-License-Identifier: Apache-2.0
// Launch plan of attention, and what its kernels get. Plain C++.
#pragma once
#include "../ops/attention.h"
#include "launch.h"
#include "rows.h"

namespace prestissimo::cuda {

constexpr int kMostHeadDim = 128;
constexpr int kQueryTile = 64;       // queries of a block on the tensor cores: 4 warps of 16
constexpr int kKeyTile = 64;         // keys of a block that owns keys
constexpr int kQueriesOfFloats = 4;  // of a block in float32: a warp each
constexpr int kAttendThreads = 128;

struct AttentionParameters {
  AttentionArgs args;
  bool aligned;  // q, k and v (and q2, k2) can be read 16 bytes at a time
  bool pairs;    // y and y2 can be written two elements at a time
};

struct AttentionBackwardParameters {
  AttentionBackwardArgs args;
  bool aligned, pairs;
};

inline bool rows_by(const HeadsView& v, int64_t lanes) {
  return aligned_16(v.data) && v.batch_stride % lanes == 0 && v.time_stride % lanes == 0 && v.head_stride % lanes == 0;
}
inline bool by_pairs(const HeadsOutput& v) {
  return reinterpret_cast<uintptr_t>(v.data) % 4 == 0 && v.batch_stride % 2 == 0 && v.time_stride % 2 == 0 &&
         v.head_stride % 2 == 0;
}

inline AttentionParameters parameters(const AttentionArgs& a) {
  const int64_t n = 16 / item_size(a.dtype);
  AttentionParameters p{a, false, false};
  p.aligned = a.head_dim % n == 0 && rows_by(a.q, n) && rows_by(a.k, n) && rows_by(a.v, n) && rows_by(a.q2, n) &&
              rows_by(a.k2, n);
  p.pairs = a.head_dim % 2 == 0 && by_pairs(a.y) && by_pairs(a.y2);
  return p;
}

inline AttentionBackwardParameters parameters(const AttentionBackwardArgs& g) {
  AttentionBackwardParameters p{g, parameters(g.forward).aligned && rows_by(g.dy, 16 / item_size(g.forward.dtype)),
                                g.forward.head_dim % 2 == 0};
  for (const HeadsOutput* v : {&g.dq, &g.dk, &g.dv, &g.dq2, &g.dk2}) p.pairs = p.pairs && by_pairs(*v);
  return p;
}

inline void check_sizes(const char* op, const AttentionArgs& a) {
  constexpr int64_t kMost = int64_t{1} << 30;  // indices and their sums with a window are 32-bit
  if (a.head_dim > kMostHeadDim)
    fail(op, "q must have a head dim of at most 128 on CUDA, got " + std::to_string(a.head_dim));
  if (a.queries > kMost || a.keys > kMost) fail(op, "q and k must have at most 2^30 rows on CUDA");
}

// In the order of ATTENTION_KERNELS: for each 16-bit type, head dims up to 64 and up to 128, in each one softmax and
// two; then float32 with one softmax and two; then dq and then dk, dv for each 16-bit type and head dim.
inline LaunchPlan plan(const AttentionArgs& a) {
  LaunchPlan p;
  check_sizes("attention", a);
  const int type = type_index(a.dtype), two = a.softmaxes == 2;
  const int kernel = type == 0 ? 8 + two : 4 * (type - 1) + 2 * (a.head_dim > 64) + two;
  const int64_t tiles = ceil_div(a.queries, type == 0 ? kQueriesOfFloats : kQueryTile);
  p.add("attention", kernel, a.batch * a.heads * tiles, kAttendThreads);
  return p;
}
inline LaunchPlan plan(const AttentionBackwardArgs& g) {
  LaunchPlan p;
  const AttentionArgs& a = g.forward;
  check_sizes("attention_backward", a);
  if (a.dtype == DType::float32) fail("attention_backward", "q must be bfloat16 or float16 on CUDA, got float32");
  const int kernel = 10 + 2 * (type_index(a.dtype) - 1) + (a.head_dim > 64);
  p.add("attention_backward", kernel, a.batch * a.heads * ceil_div(a.queries, kQueryTile), kAttendThreads);
  p.add("attention_backward", kernel + 4, a.batch * a.kv_heads * ceil_div(a.keys, kKeyTile), kAttendThreads);
  return p;
}

}  // namespace prestissimo::cuda
