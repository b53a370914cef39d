// SPDX-License-Identifier: Apache-2.0
#include "segment_similarity.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {SEGMENT_SIMILARITY_KERNELS(ADDRESS)};
#undef ADDRESS

}  // namespace

void segment_similarity(const SegmentSimilarityArgs& a, Stream stream) {
  const DeviceOf device("segment_similarity", a.temperature);
  run("segment_similarity", plan(a), kernels, parameters(a), stream);
}

void segment_similarity_backward(const SegmentSimilarityBackwardArgs& a, Stream stream) {
  const DeviceOf device("segment_similarity_backward", a.dtemperature);
  for_gradient_parts(a.forward.B * a.forward.S, segment_similarity_strip(a),
                     [&](GradientPart part, int64_t strip, int64_t first, int64_t rows) {
                       const SegmentSimilarityGradientPart g{a, part, strip, first, rows};
                       run("segment_similarity_backward", plan(g), kernels, parameters(g), stream);
                     });
}

}  // namespace prestissimo::cuda
