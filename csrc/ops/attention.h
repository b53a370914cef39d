// SPDX-License-Identifier: Apache-2.0
// y_i = sum_j p_ij v_j,  p_ij = exp(s_ij - lse_i),  s_ij = scale * q_i . k_j,  lse_i = log sum_j exp(s_ij)
// over the keys j that query i may see: j < length of the sample, mask[j], i - left <= j <= i + right. A query without
// any has y = 0 and lse = infinity. Query head h meets key head h / (H / Hk).
//
// Differential: y = y1 - y2, where y1 comes of q and k, y2 of q2 and k2, over the same values.
#pragma once
#include "../array.h"
#include "../cpu/isa.h"
#include "../device.h"

namespace prestissimo {

// [B, T, H, D], strides in elements; the stride of D is 1.
struct HeadsView {
  const void* data = nullptr;
  int64_t batch_stride = 0, time_stride = 0, head_stride = 0;
};
struct HeadsOutput {
  void* data = nullptr;
  int64_t batch_stride = 0, time_stride = 0, head_stride = 0;
};

struct AttentionArgs {
  int softmaxes;              // 2: differential
  HeadsView q, k, v, q2, k2;  // q2 and k2 count if differential
  const bool* mask;           // [B, S] or null; stride 1 along S
  int64_t mask_stride;
  const int64_t* lengths;  // [B] or null; stride 1
  HeadsOutput y, y2;       // y2 (differential alone) is kept for the backward; data null when not wanted
  float* lse;              // [1 or 2 softmaxes][B][H][T], contiguous, or null
  int64_t batch, queries, keys, heads, kv_heads, head_dim;
  int64_t left, right;  // how far a query sees; at least 0
  float scale;
  DType dtype;  // of q, k, v, q2, k2, y, y2
};

// dv_j = sum_i p_ij dy_i,  dp_ij = dy_i . v_j,  ds_ij = p_ij (dp_ij - sum_j p_ij dp_ij),
// dq_i = scale * sum_j ds_ij k_j,  dk_j = scale * sum_i ds_ij q_i;  the second softmax with -dy for dy.
struct AttentionBackwardArgs {
  AttentionArgs forward;  // y and y2 unused; lse as the forward left it
  HeadsView dy;
  HeadsOutput dq, dk, dv, dq2, dk2;
  float* rows;  // GPU workspace, [2][1 or 2 softmaxes][B][H][T]
};

namespace cuda {
// Head dims to 128; the backward in bfloat16 and float16.
void attention(const AttentionArgs&, Stream);
void attention_backward(const AttentionBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(attention, AttentionArgs)
PRESTISSIMO_CPU_KERNEL(attention_backward, AttentionBackwardArgs)
