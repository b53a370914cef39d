// SPDX-License-Identifier: Apache-2.0
// How well text j fits song i, listening where the text points to: with c_s = <a_is, t_j> over the segments s of the
// song that the mask keeps,
//
//   alpha = softmax over s of c_s / tau,   P_ij = sum_s alpha_s c_s
//
// Backward, d = dL / dP_ij, by computing the products again:
//
//   dc_s = d alpha_s (1 + (c_s - P) / tau),   da_is = sum_j dc_s t_j,   dt_j = sum_is dc_s a_is
//   dtau = -1 / tau^2 sum_ij d sum_s alpha_s (c_s - P)^2
//
// The tensor of all c, [B, N, S], is never stored.
#pragma once
#include "../array.h"
#include "../cpu/isa.h"
#include "../device.h"

namespace prestissimo {

struct SegmentSimilarityArgs {
  const void *segments, *text;          // [B, S, E], [N, E]
  int64_t segment_stride, text_stride;  // of rows; a song's first segment follows the last of the song before
  int64_t B, S, N, E;
  DType dtype;
  const float* temperature;  // one number
  const uint8_t* mask;       // [B, S], or null
  int64_t mask_stride;       // of songs
  void* out;                 // [B, N], contiguous
};

struct SegmentSimilarityBackwardArgs {
  SegmentSimilarityArgs forward;  // out unused
  const void* dout;               // [B, N]
  int64_t dout_stride;            // of rows
  void *dsegments, *dtext;        // contiguous, or null
  float* dtemperature;            // one number
  float* workspace;               // on a GPU; of how many floats
  int64_t workspace_size;
};

namespace cuda {
void segment_similarity(const SegmentSimilarityArgs&, Stream);
void segment_similarity_backward(const SegmentSimilarityBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(segment_similarity, SegmentSimilarityArgs)
PRESTISSIMO_CPU_KERNEL(segment_similarity_backward, SegmentSimilarityBackwardArgs)
