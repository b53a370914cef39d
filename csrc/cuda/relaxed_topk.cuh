// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/relaxed_topk.h; the CPU's way in logarithms for every temperature. A step is one maximum and one sum
// over the block. p of every step is kept for the backward in `workspace`, each thread reading what it wrote.
#pragma once
#include "../ops/relaxed_topk.h"
#include "topk_rows.cuh"

namespace prestissimo::cuda {

inline LaunchPlan relaxed_topk_plan(const TopkRows& t, const char* op, int direction) {
  LaunchPlan p;
  p.add(op, direction * 3 + topk_dtype(t), t.rows, topk_threads(t));
  return p;
}
inline LaunchPlan plan(const RelaxedTopkArgs& a) { return relaxed_topk_plan(a.rows, "relaxed_topk", 0); }
inline LaunchPlan plan(const RelaxedTopkBackwardArgs& a) {
  return relaxed_topk_plan(a.rows, "relaxed_topk_backward", 1);
}
inline const RelaxedTopkArgs& parameters(const RelaxedTopkArgs& a) { return a; }
inline const RelaxedTopkBackwardArgs& parameters(const RelaxedTopkBackwardArgs& a) { return a; }

constexpr int kStepScratch = 3 * kMaxWarps;

// One step: gives a (in s.x) its value of the next, and take(y, p, j) the p of every score. Scratch of kStepScratch.
template <class Take>
PRESTISSIMO_DEVICE void relaxed_step(TopkState& s, float inverse_temperature, float* scratch, Take take) {
  float highest = -INFINITY;
  s.each([&](float& a, float&, int64_t) { highest = fmaxf(highest, a); });
  highest = block_max(highest, scratch);
  float sums[2] = {0.0f, 0.0f};  // of e^(a / t) below the highest, and how many are the highest
  s.each([&](float& a, float&, int64_t) {
    const float v = a - highest;
    sums[0] += v == 0.0f ? 0.0f : expf(v * inverse_temperature);
    sums[1] += v == 0.0f ? 1.0f : 0.0f;
  });
  block_sum(sums, scratch + kMaxWarps);
  const float inverse = 1.0f / (sums[0] + sums[1]), rest = sums[0] * inverse;
  const bool leads = sums[1] == 1.0f && sums[0] < 1.0f;
  s.each([&](float& a, float& y, int64_t j) {
    const float v = a - highest, p = (v == 0.0f ? 1.0f : expf(v * inverse_temperature)) * inverse;
    a = v + logf(fmaxf(leads && v == 0.0f ? rest : 1.0f - p, kRelaxedTiny));
    take(y, p, j);
  });
}

template <class T>
PRESTISSIMO_DEVICE void relaxed_topk_body(const RelaxedTopkArgs& args) {
  SHARED_ARRAY(float, scratch, (kStepScratch + kSelectScratch));
  const TopkRows& t = args.rows;
  const TopkRow<T> row(t, blockIdx.x);
  TopkState s(args.workspace + row.first, args.workspace + t.size + row.first, row.length);
  s.each([&](float& a, float& khot, int64_t j) {
    a = row.score(j);
    khot = 0.0f;
  });
  const int64_t steps = count_of(t, blockIdx.x);
#pragma unroll 1
  for (int64_t i = 0; i < steps; ++i)
    relaxed_step(s, 1.0f / t.temperature, scratch, [](float& khot, float p, int64_t) { khot += p; });
  s.each([&](float& x, float& khot, int64_t) { x = khot; });
  if (t.hard) select_highest(s, row, selected_of(t, blockIdx.x), scratch + kStepScratch);
  T* out = static_cast<T*>(args.out) + row.first;
  s.each([&](float& x, float&, int64_t j) { out[j] = from_float<T>(x); });
}

template <class T>
PRESTISSIMO_DEVICE void relaxed_topk_backward_body(const RelaxedTopkBackwardArgs& args) {
  SHARED_ARRAY(float, scratch, (kStepScratch + 2 * kMaxWarps + kMaxWarps));
  const TopkRows& t = args.rows;
  const TopkRow<T> row(t, blockIdx.x);
  TopkState s(args.workspace + row.first, args.workspace + t.size + row.first, row.length);
  float* history = args.workspace + 2 * t.size + row.first;  // p of step i at history[i * size]
  const T* dout = static_cast<const T*>(args.dout) + row.first;
  s.each([&](float& a, float& g, int64_t j) {
    a = row.score(j);
    g = to_float(dout[j]);
  });
  const int64_t steps = count_of(t, blockIdx.x);
  const float inverse_temperature = 1.0f / t.temperature;
#pragma unroll 1
  for (int64_t i = 0; i < steps; ++i)
    relaxed_step(s, inverse_temperature, scratch, [&](float&, float p, int64_t j) { history[i * t.size + j] = p; });
  s.each([](float& d, float&, int64_t) { d = 0.0f; });
#pragma unroll 1
  for (int64_t i = steps - 1; i >= 0; --i) {
    const float* p = history + i * t.size;
    float others[2] = {0.0f, 0.0f};  // p and p q of all but the leader
    s.each([&](float& d, float& g, int64_t j) {
      if (p[j] > 0.5f) return;
      others[0] += p[j];
      others[1] += p[j] * (g - d / (1.0f - p[j]));
    });
    block_sum(others, scratch + kStepScratch);
    const float rest = others[0];
    const bool clamped = !(rest > kRelaxedTiny);
    float c[1] = {0.0f};  // p q of the leader
    s.each([&](float& d, float& g, int64_t j) {
      if (p[j] > 0.5f) c[0] += p[j] * (clamped ? g : g - d / rest);
    });
    block_sum(c, scratch + kStepScratch + 2 * kMaxWarps);
    c[0] += others[1];
    s.each([&](float& d, float& g, int64_t j) {
      if (p[j] > 0.5f) {
        const float gain = (g * rest - others[1]) * p[j] * inverse_temperature;
        d = gain + d * (clamped ? 1.0f : (t.temperature - 1.0f + rest) * inverse_temperature);
      } else {
        d += p[j] * inverse_temperature * (g - d / (1.0f - p[j]) - c[0]);
      }
    });
  }
  T* dscores = static_cast<T*>(args.dscores) + row.first;
  s.each([&](float& d, float&, int64_t j) { dscores[j] = from_float<T>(d); });
}

#define RELAXED_TOPK_TYPES(M, ...) M(f32, float, __VA_ARGS__) M(bf16, bf16, __VA_ARGS__) M(f16, f16, __VA_ARGS__)
#define RELAXED_TOPK_INSTANCE(suffix, T, ...)                                             \
  extern "C" __global__ void __launch_bounds__(kTopkThreads, 1)                           \
      relaxed_topk_##suffix(const __grid_constant__ RelaxedTopkArgs a) {                  \
    relaxed_topk_body<T>(a);                                                              \
  }                                                                                       \
  extern "C" __global__ void __launch_bounds__(kTopkThreads, 1)                           \
      relaxed_topk_backward_##suffix(const __grid_constant__ RelaxedTopkBackwardArgs a) { \
    relaxed_topk_backward_body<T>(a);                                                     \
  }
RELAXED_TOPK_TYPES(RELAXED_TOPK_INSTANCE, )

#define RELAXED_TOPK_NAME(suffix, T, X, name) X(name##_##suffix)
#define RELAXED_TOPK_KERNELS(X)                          \
  RELAXED_TOPK_TYPES(RELAXED_TOPK_NAME, X, relaxed_topk) \
  RELAXED_TOPK_TYPES(RELAXED_TOPK_NAME, X, relaxed_topk_backward)
#define RELAXED_TOPK_PLANS(X) X(relaxed_topk, RelaxedTopkArgs) X(relaxed_topk_backward, RelaxedTopkBackwardArgs)

}  // namespace prestissimo::cuda
