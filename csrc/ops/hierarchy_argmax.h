// SPDX-License-Identifier: Apache-2.0
// With z_is = <x_i, w_s + u_parent(s)>, or <x_i, w_s> without classes,
//
//   out[i] = parent(argmax_s z_is),   the first s of those that are equal, NaN above all numbers
//
// Softmax over subclasses times softmax over classes, at any scale, has the same argmax: its logarithm is
// scale (<x_i, w_s> + <x_i, u_parent(s)>) less two numbers that are constant in a row. So one product does for both,
// and nothing of size N x S is stored.
#pragma once
#include "../array.h"
#include "../cpu/isa.h"

namespace prestissimo {

struct HierarchyArgmaxArgs {
  const void *x, *subclasses, *classes;             // [N, E], [S, E], [C, E] or null
  int64_t x_stride, subclass_stride, class_stride;  // of rows, in elements
  int64_t N, S, C, E;
  const int64_t* parents;  // [S]
  int64_t* out;            // [N]
  void* workspace;         // on the GPU with classes: [S, E] of dtype, which takes the sums w + u
  DType dtype;
};

namespace cuda {
void hierarchy_argmax(const HierarchyArgmaxArgs&, Stream);
}

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(hierarchy_argmax, HierarchyArgmaxArgs)
