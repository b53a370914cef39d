// SPDX-License-Identifier: Apache-2.0
// n = (x - mean(x)) * rstd  (layer)   or   x * rstd  (rms),  rstd = 1 / sqrt(mean of squares + eps)
// a = n * weight + bias               weight, bias [C], each optional
// y = a * (1 + scale) + shift         scale, shift [B, C] or [B, T, C], each optional
//
// Backward, with g = dy * (1 + scale) * weight, means over C:
// dx     = rstd * (g - mean(g) - n * mean(g * n))      (layer;  rms has no mean(g))
// dscale = dy * a,  dshift = dy,  dweight = sum dy * (1 + scale) * n,  dbias = sum dy * (1 + scale)
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

enum class Norm : uint8_t { layer, rms };

struct AdalnModulateArgs {
  RowView x, shift, scale;    // shift, scale: data null when absent
  const void *weight, *bias;  // [C] or null
  RowOutput y;
  int64_t batch, time, channels;
  float eps;
  Norm norm;
  DType dtype;  // of every array above
};

struct AdalnModulateBackwardArgs {
  AdalnModulateArgs forward;  // y unused
  RowView dy;
  RowOutput dx;
  RowOutput dshift, dscale;           // as shift and scale; data null when not wanted
  void *dweight, *dbias;              // [C] or null
  float* partial;                     // partial_size() floats
  bool shift_per_row, scale_per_row;  // [B, T, C]: written row by row, no sum
};

// Which per-channel sums a backward keeps, in the order they lie in `partial`.
struct AdalnModulateSums {
  int shift = -1, scale = -1, weight = -1, bias = -1, count = 0;
};
// Inlined always: a copy of an instruction set's kernel must not serve the others.
__attribute__((always_inline)) inline AdalnModulateSums partial_sums(const AdalnModulateBackwardArgs& a) {
  AdalnModulateSums s;
  if (a.dshift.data && !a.shift_per_row) s.shift = s.count++;
  if (a.dscale.data && !a.scale_per_row) s.scale = s.count++;
  if (a.dweight) s.weight = s.count++;
  if (a.dbias) s.bias = s.count++;
  return s;
}

// [sums][B][ceil(T / kTimeBlock)][C] of per-channel sums; behind them, where there are any, room for the statistics of
// every row, [B][T][2], which the GPU hands from one kernel to the next and the CPU leaves alone.
inline int64_t partial_size(const AdalnModulateBackwardArgs& a) {
  const AdalnModulateArgs& f = a.forward;
  const int64_t sums = partial_sums(a).count, blocks = time_blocks(f.time);
  return sums * f.batch * blocks * f.channels + (sums ? 2 * f.batch * f.time : 0);
}

namespace cuda {
void adaln_modulate(const AdalnModulateArgs&, Stream);
void adaln_modulate_backward(const AdalnModulateBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(adaln_modulate, AdalnModulateArgs)
PRESTISSIMO_CPU_KERNEL(adaln_modulate_backward, AdalnModulateBackwardArgs)
