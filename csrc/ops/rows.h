// SPDX-License-Identifier: Apache-2.0
// Arrays as rows of channels: [batch, time] rows whose channel stride is 1. Strides in elements.
#pragma once
#include <initializer_list>

#include "../array.h"

namespace prestissimo {

// A [B, C] array, the same for every row of a sample, has time stride 0.
struct RowView {
  const void* data = nullptr;
  int64_t batch_stride = 0, time_stride = 0;
};
struct RowOutput {
  void* data = nullptr;
  int64_t batch_stride = 0, time_stride = 0;
};

// Per-channel sums over time go through `partial`, [sums][B][blocks][C] floats: block j of kTimeBlock rows of sample b
// writes its own row, and the rows are then added in the order of j, so no thread count and no grid changes a bit.
constexpr int64_t kTimeBlock = 64;
inline int64_t time_blocks(int64_t time) { return (time + kTimeBlock - 1) / kTimeBlock; }

// Null means absent in Args, but an empty array may come without an address.
inline void* address(const Array& a) {
  static char nothing;
  return a.data ? a.data : &nothing;
}

// Of [B, T, C] or [B, C].
inline RowOutput row_output(const Array& a) { return {address(a), a.stride(0), a.ndim == 3 ? a.stride(1) : 0}; }
inline RowView rows(const Array& a) {
  const RowOutput v = row_output(a);
  return {v.data, v.batch_stride, v.time_stride};
}

// A residual stream may be float32 beside branches of 16 bits.
inline void check_branch(const Checker& check, const char* op, const char* name, const Array& a, const Array& x) {
  check.shape(name, a, {x.size(0), x.size(1), x.size(2)}).same_device(name, a).rows_contiguous(name, a);
  if (a.dtype == x.dtype) return;
  if (x.dtype != DType::float32 || (a.dtype != DType::bfloat16 && a.dtype != DType::float16))
    throw ArgumentTypeError(std::string(op) + ": " + name + " must be " + prestissimo::name(x.dtype) + " like x" +
                            (x.dtype == DType::float32 ? ", bfloat16 or float16" : "") + ", got " +
                            prestissimo::name(a.dtype));
}

// For ops that treat all rows alike, whatever the number of dimensions: the leading dimensions, equal in all arrays, as
// [batch, time] with the same split for all. NotContiguous where two strides cannot describe them.
class RowsOf {
 public:
  static constexpr int kMost = 4;

  RowsOf(const char* op, std::initializer_list<const Array*> arrays);
  int64_t batch = 1, time = 1;

  RowView view(int i) const { return {data_[i], batch_stride_[i], time_stride_[i]}; }
  RowOutput output(int i) const { return {data_[i], batch_stride_[i], time_stride_[i]}; }

 private:
  void* data_[kMost];
  int64_t batch_stride_[kMost] = {}, time_stride_[kMost] = {};
};

}  // namespace prestissimo
