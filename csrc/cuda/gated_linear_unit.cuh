// SPDX-License-Identifier: Apache-2.0
// What swiglu.cuh and geglu.cuh share; formulas in ops/gated_linear_unit.h. A thread takes one vector of values and the
// gates opposite.
#pragma once
#include "../ops/gated_linear_unit.h"
#include "math.cuh"
#include "rows.cuh"

namespace prestissimo::cuda {

// In the order of the ops' lists of kernels: forward, backward; geglu has both twice.
template <class Args>
LaunchPlan gated_plan(const Args& a, int phase, bool vectorised) {
  const char* op = a.gate == Gate::silu ? "swiglu" : "geglu";
  const int kernel = (a.gate == Gate::gelu_tanh ? 12 : 0) + 6 * phase + vector_index(a.dtype, vectorised);
  LaunchPlan p;
  check_channels(op, 2 * a.width);
  add_elementwise(p, op, kernel, a.batch * a.time, a.width, vectorised ? 16 / item_size(a.dtype) : 1);
  return p;
}

inline LaunchPlan plan(const GatedLinearUnitArgs& a) {
  const int64_t n = 16 / item_size(a.dtype);
  return gated_plan(a, 0, a.width % n == 0 && aligned_rows(a.x, n) && aligned_rows(a.y, n));
}
inline LaunchPlan plan(const GatedLinearUnitBackwardArgs& a) {
  const int64_t n = 16 / item_size(a.dtype);
  return gated_plan(a, 1, a.width % n == 0 && aligned_rows(a.x, n) && aligned_rows(a.dy, n) && aligned_rows(a.dx, n));
}

inline const GatedLinearUnitArgs& parameters(const GatedLinearUnitArgs& a) { return a; }
inline const GatedLinearUnitBackwardArgs& parameters(const GatedLinearUnitBackwardArgs& a) { return a; }

struct ValueAndSlope {
  float value, slope;
};

struct Silu {
  static PRESTISSIMO_DEVICE ValueAndSlope both(float b) {
    const SigmoidAndSlope s = sigmoid_and_slope(b);
    return {b * s.value, __fmaf_rn(b, s.slope, s.value)};
  }
};
struct Gelu {
  static PRESTISSIMO_DEVICE ValueAndSlope both(float b) {
    const float p = normal_cdf(b);
    return {b * p, __fmaf_rn(b, 0.398942280f * expf(-0.5f * b * b), p)};
  }
};
struct GeluTanh {  // (1 + tanh u) / 2 is sigmoid(2 u); 1.59... = 2 sqrt(2 / pi)
  static PRESTISSIMO_DEVICE ValueAndSlope both(float b) {
    const SigmoidAndSlope s = sigmoid_and_slope(1.59576912f * b * __fmaf_rn(0.044715f * b, b, 1.0f));
    const float slope = 1.59576912f * __fmaf_rn(3 * 0.044715f * b, b, 1.0f);
    return {b * s.value, __fmaf_rn(b * s.slope, slope, s.value)};
  }
};

template <class F, class T, int V>
PRESTISSIMO_DEVICE void gated_rows(const GatedLinearUnitArgs& g) {
  const RowPlace at(g.width, g.time, V);
  const int width = static_cast<int>(g.width);
  if (at.c >= width) return;
  const T* x = row_of<T>(g.x, at.b, at.t) + at.c;
  float a[V], b[V];
  load(x + (g.gate_first ? width : 0), a);
  load(x + (g.gate_first ? 0 : width), b);
#pragma unroll
  for (int i = 0; i < V; ++i) a[i] *= F::both(b[i]).value;
  store(row_of<T>(g.y, at.b, at.t) + at.c, a);
}

template <class F, class T, int V>
PRESTISSIMO_DEVICE void gated_backward_rows(const GatedLinearUnitBackwardArgs& g) {
  const RowPlace at(g.width, g.time, V);
  const int width = static_cast<int>(g.width);
  if (at.c >= width) return;
  const int values = at.c + (g.gate_first ? width : 0), gates = at.c + (g.gate_first ? 0 : width);
  const T* x = row_of<T>(g.x, at.b, at.t);
  T* dx = row_of<T>(g.dx, at.b, at.t);
  float a[V], b[V], d[V];
  load(x + values, a);
  load(x + gates, b);
  load(row_of<T>(g.dy, at.b, at.t) + at.c, d);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const ValueAndSlope f = F::both(b[i]);
    b[i] = d[i] * a[i] * f.slope;
    a[i] = d[i] * f.value;
  }
  store(dx + values, a);
  store(dx + gates, b);
}

// M(suffix, T, V, name, F): the kernels <name>_rows_<suffix> and <name>_backward_rows_<suffix>.
#define GATED_INSTANCE(suffix, T, V, name, F)                                                \
  extern "C" __global__ void __launch_bounds__(kElementwiseThreads)                          \
      name##_rows_##suffix(const __grid_constant__ GatedLinearUnitArgs g) {                  \
    gated_rows<F, T, V>(g);                                                                  \
  }                                                                                          \
  extern "C" __global__ void __launch_bounds__(kElementwiseThreads)                          \
      name##_backward_rows_##suffix(const __grid_constant__ GatedLinearUnitBackwardArgs g) { \
    gated_backward_rows<F, T, V>(g);                                                         \
  }
#define GATED_NAME(suffix, T, V, X, phase) X(phase##_##suffix)
#define GATED_KERNELS(X, name) FOR_VECTORS(GATED_NAME, X, name##_rows) FOR_VECTORS(GATED_NAME, X, name##_backward_rows)

}  // namespace prestissimo::cuda
