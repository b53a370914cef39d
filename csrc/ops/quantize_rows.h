// SPDX-License-Identifier: Apache-2.0
// Of each row x of C channels, with m = max |x|:
// scale = m / 127,  y = round(x * min(127 / m, largest float)), halves to even: whole numbers from -127 to 127
// every step rounded to float32, so that the result is one for all devices and instruction sets. A row with an infinity
// or NaN has scale NaN and y = 0.
#pragma once
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

struct QuantizeRowsArgs {
  RowView x;
  RowOutput y;      // int8
  RowOutput scale;  // float32, one for each row
  int64_t batch, time, channels;
  DType dtype;
};

namespace cuda {
void quantize_rows(const QuantizeRowsArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(quantize_rows, QuantizeRowsArgs)
