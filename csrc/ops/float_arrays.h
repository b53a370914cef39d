// SPDX-License-Identifier: Apache-2.0
// Statistics and partial sums: contiguous float32 beside an op's own arrays, whatever their dtype is.
#pragma once
#include <initializer_list>

#include "../array.h"

namespace prestissimo {

inline void check_float(const Checker& check, const char* name, const Array& a, std::initializer_list<int64_t> shape) {
  check.dtype(name, a, DType::float32).same_device(name, a).contiguous(name, a).shape(name, a, shape);
}

}  // namespace prestissimo
