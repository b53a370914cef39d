// SPDX-License-Identifier: Apache-2.0
// What the top-k ops share: rows of scores, all of one length or of any lengths one behind the other (CSR), and how
// many of each row to take. Outputs are contiguous: [rows, length], or [size] in the order of the offsets.
#pragma once
#include "../array.h"

namespace prestissimo {

struct TopkRows {
  const void* scores;      // row r begins at r * row_stride, or at offsets[r]
  const float* noise;      // laid out like the outputs, added to the scores in float32; or null
  const int64_t* offsets;  // [rows + 1], from 0 to size; null where every row has `length` scores
  const int64_t* counts;   // [rows], k of each row; null: `k` for all. Never more than `k`.
  const int64_t* slots;    // [rows], what each row selects when hard; null: `selected` for all, or its k if that is -1
  int64_t rows, length, row_stride, size, k, selected;
  float temperature;
  bool hard;    // the output is 1 at a row's highest and 0 elsewhere, the gradient that of the relaxation
  DType dtype;  // of scores, outputs and gradients
};

// The checks of every top-k op; `most` is the largest k that the op takes. Values are looked at where the arrays lie on
// the CPU; kernels on other devices clamp them.
TopkRows checked_rows(const char* op, const Array& scores, int64_t k, const Array* counts, const Array* offsets,
                      double temperature, bool hard, int64_t selected, const Array* slots, const Array* noise,
                      int64_t most);

// An output of these rows: contiguous, of their dtype and on their device.
void check_like_scores(const char* op, const char* name, const Array& a, const Array& scores);

// Floats for a GPU, `planes` for each score; null on the CPU, which needs none.
float* checked_workspace(const char* op, const Array* workspace, const Array& scores, int64_t planes);

}  // namespace prestissimo
