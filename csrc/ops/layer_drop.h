// SPDX-License-Identifier: Apache-2.0
// hidden[l], [B, T, C], enters block l + 1 of L; the last block is always kept. Sample b with budget n = budget[b]
// takes h = hidden[n - 1][b], with mean and variance as in hidden_variance.h, and out[b] = s h,  s = sqrt(target[b] /
// variance) where there is a target, n < L and variance > 0, else 1 (out = h) statistics[b] = (mean, s, slope), slope =
// ds / dvariance = -s / (2 variance), 0 where s is 1 by rule
//
// Backward, with N = T C:  dh = s dout + 2 / N (h - mean) (dvariance + slope sum(dout h)),
// d hidden[l][b] = dh where l = n - 1, else 0.
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

constexpr int kMostLayers = 64;

struct LayerDropArgs {
  RowView hidden[kMostLayers];
  RowOutput out;
  const int64_t* budget;  // [B], each 1 .. layers
  const float* target;    // [B], or null
  float* variance;        // [B]
  float* statistics;      // [B][3]
  float* partial;         // [B][T][2], as in hidden_variance.h
  int64_t layers, batch, time, channels;
  DType dtype;
};

// Of the layers that anybody left at: budget counts among these.
struct LayerDropBackwardArgs {
  RowView hidden[kMostLayers];
  RowOutput dhidden[kMostLayers];
  RowView dout;
  const int64_t* budget;
  const float *dvariance, *statistics;
  float* partial;  // [B][T] sums of dout h of each row, then [B]: 2 / N (dvariance + slope sum)
  int64_t layers, batch, time, channels;
  DType dtype;
};

namespace cuda {
void layer_drop(const LayerDropArgs&, Stream);
void layer_drop_backward(const LayerDropBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(layer_drop, LayerDropArgs)
PRESTISSIMO_CPU_KERNEL(layer_drop_backward, LayerDropBackwardArgs)
