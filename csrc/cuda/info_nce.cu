// SPDX-License-Identifier: Apache-2.0
#include "info_nce.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {INFO_NCE_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void info_nce(const InfoNceArgs& a, Stream stream) {
  const DeviceOf device("info_nce", a.loss);
  run("info_nce", plan(a), kernels, parameters(a), stream);
}

void info_nce_backward(const InfoNceBackwardArgs& a, Stream stream) {
  const DeviceOf device("info_nce_backward", a.dscale);
  for_gradient_parts(a.forward.M, info_nce_strip(a),
                     [&](GradientPart part, int64_t strip, int64_t first, int64_t rows) {
                       const InfoNceGradientPart g{a, part, strip, first, rows};
                       run("info_nce_backward", plan(g), kernels, parameters(g), stream);
                     });
}

}  // namespace prestissimo::cuda
