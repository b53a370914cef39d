// SPDX-License-Identifier: Apache-2.0
// Which kernels of qk_norm_rope run for given Args, and how lanes share a head. Plain C++.
#pragma once
#include "../ops/qk_norm_rope.h"
#include "rows.h"

namespace prestissimo::cuda {

// In the order of QK_NORM_ROPE_KERNELS: the first two for each pair of types (of the vectors, of the heads).
enum QkNormRopePhase : int { kHeads, kBackwardHeads, kHeadSums };

constexpr int kHeadThreads = 128;
constexpr int64_t kMostDim = 256;
template <int V>
constexpr int kUnits = static_cast<int>(ceil_div(kMostDim, 2 * V * kWarpSize));  // that a lane holds
static_assert(kUnits<1> == 4 && kUnits<4> == 1 && kUnits<8> == 1);

struct HeadLayout {
  int rotated, units, group;  // units that rotate, all units, lanes of a group
};
inline HeadLayout head_layout(const QkNormRopeArgs& a, int64_t lanes) {
  const int64_t rotated = a.half / lanes, units = rotated + ceil_div(a.dim - 2 * a.half, 2 * lanes);
  int group = 1;
  while (group < units && group < kWarpSize) group *= 2;
  return {static_cast<int>(rotated), static_cast<int>(units), group};
}

template <class View>
bool aligned_heads(const View& v, int64_t n) {
  return aligned_16(v.data) && v.batch_stride % n == 0 && v.time_stride % n == 0 && v.head_stride % n == 0;
}
inline bool vectorised(const QkNormRopeArgs& a, int64_t n) {
  bool yes = a.half % n == 0 && a.dim % (2 * n) == 0 && aligned_16(a.cos) && aligned_16(a.sin);
  for (const Heads* h : {&a.q, &a.k})
    yes = yes && aligned_heads(h->x, n) && aligned_heads(h->y, n) && aligned_16(h->weight) && aligned_16(h->bias);
  return yes;
}
inline bool vectorised(const QkNormRopeBackwardArgs& a, int64_t n) {
  bool yes = vectorised(a.forward, n);
  for (const HeadGradients* g : {&a.q, &a.k}) yes = yes && aligned_heads(g->dy, n) && aligned_heads(g->dx, n);
  return yes;
}
inline int64_t head_lanes(DType dtype) { return 16 / item_size(dtype); }

inline void check_dim(const char* op, const QkNormRopeArgs& a) {
  if (a.dim > kMostDim)
    fail(op, "qkv has heads of " + std::to_string(a.dim) + " dims, and the CUDA kernel takes at most 256");
}

struct QkNormRopeParameters : QkNormRopeArgs {
  HeadLayout layout;
};
inline QkNormRopeParameters parameters(const QkNormRopeArgs& a) {
  const int64_t n = head_lanes(a.dtype);
  return {a, head_layout(a, vectorised(a, n) ? n : 1)};
}
struct QkNormRopeBackwardParameters {
  QkNormRopeParameters forward;
  HeadGradients q, k;
  HeadSums q_sums, k_sums;
};
inline QkNormRopeBackwardParameters parameters(const QkNormRopeBackwardArgs& a) {
  const int64_t n = head_lanes(a.forward.dtype);
  return {{a.forward, head_layout(a.forward, vectorised(a, n) ? n : 1)}, a.q, a.k, head_sums(a.q), head_sums(a.k)};
}

inline LaunchPlan plan(const QkNormRopeArgs& a) {
  const char* op = "qk_norm_rope";
  check_dim(op, a);
  const bool vectors = vectorised(a, head_lanes(a.dtype));
  const int64_t heads = a.batch * a.time * (a.q.heads + a.k.heads);
  if (heads > INT32_MAX) fail(op, "has " + std::to_string(heads) + " heads in all, more than 2^31 - 1");
  LaunchPlan p;
  p.add(op, kHeads * kStreams + stream_index(a.vectors_dtype, a.dtype, vectors),
        ceil_div(heads * parameters(a).layout.group, kHeadThreads), kHeadThreads);
  return p;
}
inline LaunchPlan plan(const QkNormRopeBackwardArgs& a) {
  const char* op = "qk_norm_rope_backward";
  const QkNormRopeArgs& f = a.forward;
  check_dim(op, f);
  const bool vectors = vectorised(a, head_lanes(f.dtype));
  LaunchPlan p;
  p.add(op, kBackwardHeads * kStreams + stream_index(f.vectors_dtype, f.dtype, vectors),
        f.batch * time_blocks(f.time) * (f.q.heads + f.k.heads), kHeadThreads);
  p.add(op, kHeadSums * kStreams + type_index(f.vectors_dtype),
        (head_sums(a.q).count + head_sums(a.k).count) * ceil_div(f.dim, kWarpSize), kColumnThreads);
  return p;
}

}  // namespace prestissimo::cuda
