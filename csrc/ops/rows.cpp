// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

namespace prestissimo {

RowsOf::RowsOf(const char* op, std::initializer_list<const Array*> arrays) {
  const Array* all[kMost];
  int count = 0;
  for (const Array* a : arrays) data_[count] = address(*a), all[count++] = a;
  // From the last dimension outwards: a dimension joins the group inside it where every array's stride allows.
  int groups = 0;
  int64_t sizes[2] = {1, 1}, strides[2][kMost] = {};
  for (int d = all[0]->ndim - 2; d >= 0; --d) {
    const int64_t n = all[0]->shape[d];
    if (n == 1) continue;
    bool joins = groups > 0;
    for (int i = 0; i < count && joins; ++i) joins = all[i]->strides[d] == sizes[groups - 1] * strides[groups - 1][i];
    if (joins) {
      sizes[groups - 1] *= n;
      continue;
    }
    if (groups == 2) {
      if (all[0]->numel() == 0) break;
      throw NotContiguous(std::string(op) + ": two strides do not describe the rows");
    }
    sizes[groups] = n;
    for (int i = 0; i < count; ++i) strides[groups][i] = all[i]->strides[d];
    ++groups;
  }
  time = sizes[0];
  batch = sizes[1];
  for (int i = 0; i < count; ++i) {
    time_stride_[i] = strides[0][i];
    batch_stride_[i] = strides[1][i];
  }
}

}  // namespace prestissimo
