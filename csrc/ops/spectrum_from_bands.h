// SPDX-License-Identifier: Apache-2.0
// y[j] = between(bands, j) + residual[j] + offset[j] + exp(min(0, between(spread, j))) noise[t'][j]
// between(v, j) = v[lower[j]] + share[j] (v[lower[j] + 1] - v[lower[j]]),  t' = (first + t) mod P
//
// bands [B][C][T][M], residual and y [B][C][T][F], offset [C][F], spread [B][C][T][S], noise [C][P][F]; lower and share
// [F] are those of each interpolation. Spread and noise are optional, together.
//
// Backward: dresidual = dy,  dbands[i] = sum_j dy[j] (share of i in j),  dspread[i] = sum_j dy[j] noise[j] e^s [s <= 0]
// (share of i in j), s = between(spread, j); sums in the order of j
#pragma once
#include "../array.h"
#include "../cpu/isa.h"

namespace prestissimo {

// [B][C][T] rows, stride 1 along a row.
struct SpectrumRows {
  const float* data = nullptr;
  int64_t batch_stride = 0, channel_stride = 0, frame_stride = 0;
};
struct Interpolation {
  const int32_t* lower = nullptr;  // in [0, count - 2]: the Python side made it so
  const float* share = nullptr;
  int64_t count = 0;
};

struct SpectrumFromBandsArgs {
  SpectrumRows bands, residual, spread;
  Interpolation band, spreads;
  const float *offset, *noise;  // noise null where there is none
  float* y;
  int64_t batch, channels, frames, bins, period, first;
};

struct SpectrumFromBandsBackwardArgs {
  SpectrumFromBandsArgs forward;  // bands, residual, offset and y unused
  const float* dy;                // [B][C][T][F]
  float *dbands, *dspread;        // [B][C][T][M] and [B][C][T][S], null where not wanted
};

namespace cuda {
void spectrum_from_bands(const SpectrumFromBandsArgs&, Stream);
void spectrum_from_bands_backward(const SpectrumFromBandsBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(spectrum_from_bands, SpectrumFromBandsArgs)
PRESTISSIMO_CPU_KERNEL(spectrum_from_bands_backward, SpectrumFromBandsBackwardArgs)
