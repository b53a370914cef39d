// SPDX-License-Identifier: Apache-2.0
// Which kernels of adaln_modulate.cuh run for given Args, with how many blocks and threads. Plain C++.
#pragma once
#include "../ops/adaln_modulate.h"
#include "held_rows.h"
#include "rows.h"

namespace prestissimo::cuda {

// In the order of ADALN_MODULATE_KERNELS: for each phase each dtype, vectors of 16 bytes and then single elements; the
// sums know single elements only.
enum AdalnModulatePhase : int { kForwardRows, kBackwardRows, kBackwardColumns, kBackwardSums };

inline int adaln_modulate_kernel(AdalnModulatePhase phase, DType dtype, bool vectorised) {
  return phase == kBackwardSums ? phase * 6 + type_index(dtype) : phase * 6 + vector_index(dtype, vectorised);
}

// Whether every access may move 16 bytes.
inline bool vectorised(const AdalnModulateArgs& a) {
  const int64_t n = 16 / item_size(a.dtype);
  const auto rows = [n](const auto& v) { return aligned_rows(v, n); };
  return a.channels % n == 0 && rows(a.x) && rows(a.shift) && rows(a.scale) && rows(a.y) && aligned_16(a.weight) &&
         aligned_16(a.bias);
}
inline bool vectorised(const AdalnModulateBackwardArgs& a) {
  const int64_t n = 16 / item_size(a.forward.dtype);
  const auto rows = [n](const auto& v) { return aligned_rows(v, n); };
  return vectorised(a.forward) && rows(a.dy) && rows(a.dx) && rows(a.dshift) && rows(a.dscale);
}

inline uint32_t row_threads(const AdalnModulateArgs& a, bool vectors) {
  return row_threads(a.channels, vectors ? 16 / item_size(a.dtype) : 1);
}

// Blocks of the kernel that adds the rows of `partial`; none where there are no sums.
inline int64_t sum_blocks(const AdalnModulateBackwardArgs& a) {
  const AdalnModulateSums s = partial_sums(a);
  const int64_t outputs = a.forward.batch * ((s.shift >= 0) + (s.scale >= 0)) + (s.weight >= 0) + (s.bias >= 0);
  return ceil_div(a.forward.channels, kWarpSize) * outputs;
}

inline LaunchPlan plan(const AdalnModulateArgs& a) {
  const char* op = "adaln_modulate";
  check_channels(op, a.channels);
  const bool vectors = vectorised(a);
  LaunchPlan p;
  p.add(op, adaln_modulate_kernel(kForwardRows, a.dtype, vectors), a.batch * a.time, row_threads(a, vectors));
  return p;
}

inline LaunchPlan plan(const AdalnModulateBackwardArgs& a) {
  const char* op = "adaln_modulate_backward";
  const AdalnModulateArgs& f = a.forward;
  check_channels(op, f.channels);
  const bool vectors = vectorised(a);
  const int64_t lanes = vectors ? 16 / item_size(f.dtype) : 1;
  LaunchPlan p;
  p.add(op, adaln_modulate_kernel(kBackwardRows, f.dtype, vectors), f.batch * f.time, row_threads(f, vectors));
  if (sum_blocks(a) == 0) return p;
  p.add(op, adaln_modulate_kernel(kBackwardColumns, f.dtype, vectors),
        ceil_div(f.channels, kWarpSize * lanes) * f.batch * time_blocks(f.time), kColumnThreads);
  p.add(op, adaln_modulate_kernel(kBackwardSums, f.dtype, true), sum_blocks(a), kColumnThreads);
  return p;
}

// What the kernels get: the Args, and what the host works out once.
inline const AdalnModulateArgs& parameters(const AdalnModulateArgs& a) { return a; }

struct AdalnModulateBackwardParameters : AdalnModulateBackwardArgs {
  AdalnModulateSums sums;
  int64_t blocks;     // of kTimeBlock rows, in one sample
  float* statistics;  // [B][T][2]: mean and 1 / deviation of every row, behind the sums in `partial`; null without sums
};
inline AdalnModulateBackwardParameters parameters(const AdalnModulateBackwardArgs& a) {
  AdalnModulateBackwardParameters p{a, partial_sums(a), time_blocks(a.forward.time), nullptr};
  if (p.sums.count) p.statistics = a.partial + p.sums.count * a.forward.batch * p.blocks * a.forward.channels;
  return p;
}

}  // namespace prestissimo::cuda
