// SPDX-License-Identifier: Apache-2.0
// x_ij = scale <a_i, b_j> + bias, or with `normalize` scale times their cosine; row i's positive is column i + offset.
// A pair is left out by mask[i][j] = 0, by equal groups unless it is a positive, and by a negative group; a row whose
// positive is left out is no anchor. With n anchors and sums over pairs that take part:
//
//   rows       L = 1/n sum over anchors of (lse_j x_ij - x_i,i+offset)
//   symmetric  L = 1/2 (rows of x + rows of x^T),  as many rows as columns
//   sigmoid    L = 1/n sum over pairs of log(1 + e^x),  of log(1 + e^-x) for positives
//
// Backward, with w = dL / n (w / 2 for symmetric), lse of rows r_i and of columns c_j, and d_ij = 1 for positives:
//
//   dx_ij = w (e^(x_ij - r_i) - d_ij)  [+ w (e^(x_ij - c_j) - d_ij)]     or   w (sigmoid(x_ij) - d_ij)
//   da_i = scale sum_j dx_ij b_j,  db_j = scale sum_i dx_ij a_i,  dscale = sum dx_ij <a_i, b_j>,  dbias = sum dx_ij
//
// with a and b of length 1 where `normalize`, and then da_i = (u - â <â, u>) / |a_i| of u = scale sum_j dx_ij b_j /
// |b_j|. Nothing of size M x N is ever stored: both directions work on a strip of rows at a time, the backward on
// products that it computes again.
#pragma once
#include "../array.h"
#include "../cpu/isa.h"
#include "../device.h"

namespace prestissimo {

enum class Contrast : uint8_t { symmetric, rows, sigmoid };

struct InfoNceArgs {
  const void *a, *b;           // [M, E], [N, E]
  int64_t a_stride, b_stride;  // of rows, in elements
  int64_t M, N, E, offset;
  DType dtype;
  const float *scale, *bias;         // one number each; bias null when absent
  const uint8_t* mask;               // [M, N], or null
  int64_t mask_stride;               // of rows
  const int64_t *a_group, *b_group;  // [M], [N], or null
  bool normalize;
  Contrast form;
  float* loss;                   // one number
  double *row_lse, *column_lse;  // [M], [N], null for sigmoid, columns also for rows; double, so that their distance
                                 // to a positive is exact
  float* workspace;              // on a GPU; of how many floats
  int64_t workspace_size;
};

struct InfoNceBackwardArgs {
  InfoNceArgs forward;  // the log-sum-exps are inputs, loss is unused
  const float* dloss;
  void *da, *db;          // [M, E], [N, E] contiguous, or null
  float *dscale, *dbias;  // one number each
};

constexpr float kNormEps = 1e-12f;      // the least length that `normalize` divides by
constexpr float kLowestLogit = -1e30f;  // a maximum that starts here leaves e^(-inf - maximum) at zero
constexpr float kTinyScale = 1e-30f;    // stands for a scale of zero, which the scale's own gradient divides by

namespace cuda {
void info_nce(const InfoNceArgs&, Stream);
void info_nce_backward(const InfoNceBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(info_nce, InfoNceArgs)
PRESTISSIMO_CPU_KERNEL(info_nce_backward, InfoNceBackwardArgs)
