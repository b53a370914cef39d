// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/layer_drop.h. A block a row of the layer that its sample leaves at, then a block a sample, then the
// rows once more where they are rescaled.
#pragma once
#include "../ops/layer_drop.h"
#include "sample_moments.cuh"

namespace prestissimo::cuda {

// In the order of LAYER_DROP_KERNELS; the last two have no type.
enum LayerDropPhase : int { kDropRows, kRescaleRows, kDropBackwardSums, kDropBackwardRows, kDropSamples };

template <class Args>
bool vectorised_layers(const Args& a, int64_t n) {
  bool yes = a.channels % n == 0;
  for (int64_t l = 0; l < a.layers; ++l) yes = yes && aligned_rows(a.hidden[l], n);
  return yes;
}

inline LaunchPlan plan(const LayerDropArgs& a) {
  const char* op = "layer_drop";
  check_channels(op, a.channels);
  const int64_t n = 16 / item_size(a.dtype);
  const bool vectors = vectorised_layers(a, n) && aligned_rows(a.out, n);
  const int64_t lanes = vectors ? n : 1;
  LaunchPlan p;
  p.add(op, kDropRows * 6 + vector_index(a.dtype, vectors), a.batch * a.time, row_threads(a.channels, lanes));
  p.add(op, kDropSamples * 6, a.batch, kSampleThreads);
  if (a.target && a.channels > 0)
    add_elementwise(p, op, kRescaleRows * 6 + vector_index(a.dtype, vectors), a.batch * a.time, a.channels, lanes);
  return p;
}
inline LaunchPlan plan(const LayerDropBackwardArgs& a) {
  const char* op = "layer_drop_backward";
  const int64_t n = 16 / item_size(a.dtype);
  bool vectors = vectorised_layers(a, n) && aligned_rows(a.dout, n);
  for (int64_t l = 0; l < a.layers; ++l) vectors = vectors && aligned_rows(a.dhidden[l], n);
  const int64_t lanes = vectors ? n : 1;
  LaunchPlan p;
  p.add(op, kDropBackwardSums * 6 + vector_index(a.dtype, vectors), a.batch * a.time, row_threads(a.channels, lanes));
  p.add(op, kDropSamples * 6 + 1, a.batch, kSampleThreads);
  add_elementwise(p, op, kDropBackwardRows * 6 + vector_index(a.dtype, vectors), a.layers * a.batch * a.time,
                  a.channels, lanes);
  return p;
}
inline const LayerDropArgs& parameters(const LayerDropArgs& a) { return a; }
inline const LayerDropBackwardArgs& parameters(const LayerDropBackwardArgs& a) { return a; }

// The layer that sample b leaves at.
template <class Args>
PRESTISSIMO_DEVICE int64_t exit_of(const Args& a, int64_t b) {
  const int64_t n = a.budget[b];
  return (n < 1 ? 1 : n > a.layers ? a.layers : n) - 1;
}
PRESTISSIMO_DEVICE bool rescaled(const LayerDropArgs& a, int64_t b) { return a.target && exit_of(a, b) < a.layers - 1; }

template <class T, int V>
PRESTISSIMO_DEVICE void layer_drop_rows(const LayerDropArgs& a) {
  SHARED_ARRAY(float, scratch, 3 * kMaxWarps);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.time), t = blockIdx.x % static_cast<uint32_t>(a.time);
  const int C = static_cast<int>(a.channels);
  const HeldRow<T, V, kHeld<V>> h(row_of<T>(a.hidden[exit_of(a, b)], b, t), C);
  if (!rescaled(a, b))
    for_owned<V, kHeld<V>>(C, [&](int k, int c) {
      float v[V];
      h.lanes(k, c, v);
      store(row_of<T>(a.out, b, t) + c, v);
    });
  row_moments(h, C, scratch, a.partial + 2 * static_cast<int64_t>(blockIdx.x));
}

template <class T, int V>
PRESTISSIMO_DEVICE void layer_drop_rescale_rows(const LayerDropArgs& a) {
  const RowPlace at(a.channels, a.time, V);
  if (at.c >= a.channels || !rescaled(a, at.b)) return;
  const float by = a.statistics[3 * at.b + 1];
  float v[V];
  load(row_of<T>(a.hidden[exit_of(a, at.b)], at.b, at.t) + at.c, v);
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] *= by;
  store(row_of<T>(a.out, at.b, at.t) + at.c, v);
}

template <class T, int V>
PRESTISSIMO_DEVICE void layer_drop_backward_sums(const LayerDropBackwardArgs& a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  const int64_t b = blockIdx.x / static_cast<uint32_t>(a.time), t = blockIdx.x % static_cast<uint32_t>(a.time);
  float sum[1] = {0.0f};
  if (a.statistics[3 * b + 2] != 0.0f) {
    const T *h = row_of<T>(a.hidden[exit_of(a, b)], b, t), *d = row_of<T>(a.dout, b, t);
    for_owned<V, 1>(static_cast<int>(a.channels), [&](int, int c) {
      float v[V], w[V];
      load(h + c, v);
      load(d + c, w);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[0] = __fmaf_rn(v[i], w[i], sum[0]);
    });
  }
  block_sum(sum, scratch);
  if (threadIdx.x == 0) a.partial[blockIdx.x] = sum[0];
}

template <class T, int V>
PRESTISSIMO_DEVICE void layer_drop_backward_rows(const LayerDropBackwardArgs& a) {
  const RowPlace at(a.channels, a.batch * a.time, V);  // at.b is the layer
  if (at.c >= a.channels) return;
  const int64_t b = at.t / a.time, t = at.t % a.time;
  float v[V] = {};
  if (at.b == exit_of(a, b)) {
    const float *s = a.statistics + 3 * b, by = a.partial[a.batch * a.time + b];
    float d[V];
    load(row_of<T>(a.hidden[at.b], b, t) + at.c, v);
    load(row_of<T>(a.dout, b, t) + at.c, d);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = __fmaf_rn(v[i] - s[0], by, d[i] * s[1]);
  }
  store(row_of<T>(a.dhidden[at.b], b, t) + at.c, v);
}

#define LAYER_DROP(suffix, T, V, ...)                                                      \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                             \
      layer_drop_rows_##suffix(const __grid_constant__ LayerDropArgs a) {                  \
    layer_drop_rows<T, V>(a);                                                              \
  }                                                                                        \
  extern "C" __global__ void __launch_bounds__(kElementwiseThreads)                        \
      layer_drop_rescale_rows_##suffix(const __grid_constant__ LayerDropArgs a) {          \
    layer_drop_rescale_rows<T, V>(a);                                                      \
  }                                                                                        \
  extern "C" __global__ void __launch_bounds__(kRowThreads, 1)                             \
      layer_drop_backward_sums_##suffix(const __grid_constant__ LayerDropBackwardArgs a) { \
    layer_drop_backward_sums<T, V>(a);                                                     \
  }                                                                                        \
  extern "C" __global__ void __launch_bounds__(kElementwiseThreads)                        \
      layer_drop_backward_rows_##suffix(const __grid_constant__ LayerDropBackwardArgs a) { \
    layer_drop_backward_rows<T, V>(a);                                                     \
  }
FOR_VECTORS(LAYER_DROP)

extern "C" __global__ void __launch_bounds__(kSampleThreads)
    layer_drop_samples(const __grid_constant__ LayerDropArgs a) {
  SHARED_ARRAY(float, scratch, 2 * kMaxWarps);
  const int64_t b = blockIdx.x;
  const SampleMoments s = sample_moments(a.partial + 2 * b * a.time, a.time, a.channels, scratch);
  if (threadIdx.x > 0) return;
  const bool scales = rescaled(a, b) && s.variance > 0.0f;
  const float scale = scales ? sqrtf(a.target[b] / s.variance) : 1.0f;
  a.variance[b] = s.variance;
  a.statistics[3 * b] = s.mean;
  a.statistics[3 * b + 1] = scale;
  a.statistics[3 * b + 2] = scales ? -0.5f * scale / s.variance : 0.0f;
}
extern "C" __global__ void __launch_bounds__(kSampleThreads)
    layer_drop_backward_samples(const __grid_constant__ LayerDropBackwardArgs a) {
  SHARED_ARRAY(float, scratch, kMaxWarps);
  const int64_t b = blockIdx.x;
  float sum[1] = {0.0f};
  for (int64_t t = threadIdx.x; t < a.time; t += blockDim.x) sum[0] += a.partial[b * a.time + t];
  block_sum(sum, scratch);
  if (threadIdx.x > 0) return;
  a.partial[a.batch * a.time + b] =
      2.0f * (a.dvariance[b] + a.statistics[3 * b + 2] * sum[0]) / static_cast<float>(a.time * a.channels);
}

#define LAYER_DROP_NAME(suffix, T, V, X, phase) X(phase##_##suffix)
#define LAYER_DROP_KERNELS(X)                               \
  FOR_VECTORS(LAYER_DROP_NAME, X, layer_drop_rows)          \
  FOR_VECTORS(LAYER_DROP_NAME, X, layer_drop_rescale_rows)  \
  FOR_VECTORS(LAYER_DROP_NAME, X, layer_drop_backward_sums) \
  FOR_VECTORS(LAYER_DROP_NAME, X, layer_drop_backward_rows) \
  X(layer_drop_samples) X(layer_drop_backward_samples)
#define LAYER_DROP_PLANS(X)    \
  X(layer_drop, LayerDropArgs) \
  X(layer_drop_backward, LayerDropBackwardArgs)

}  // namespace prestissimo::cuda
