// SPDX-License-Identifier: Apache-2.0
#include "quantize_rows.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {QUANTIZE_ROWS_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void quantize_rows(const QuantizeRowsArgs& a, Stream stream) {
  const DeviceOf device("quantize_rows", a.x.data);
  run("quantize_rows", plan(a), kernels, parameters(a), stream);
}

}  // namespace prestissimo::cuda
