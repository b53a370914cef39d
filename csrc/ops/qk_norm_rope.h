// SPDX-License-Identifier: Apache-2.0
// Each head x of q and of k, [D]:
// n = x                                              none
//     (x - mean(x)) / sqrt(variance(x) + eps)        layer
//     x / sqrt(mean(x^2) + eps)                      rms
//     tanh(alpha x)                                  dyt
// u = n * weight + bias
// y = u with its first r = 2 half dims rotated: (a, b) <- (a cos - b sin, b cos + a sin), for half-split pairing
//     (a, b) = (u[i], u[half + i]), for interleaved (u[2i], u[2i + 1]), i < half
//
// Backward: du is dy rotated back; then, with g = du * weight and means over D,
// none dx = du;   layer, rms as in adaln_modulate.h;   dyt dx = alpha g (1 - n^2),  dalpha = sum g x (1 - n^2)
// dweight = sum du n,  dbias = sum du, over samples, time and heads
#pragma once
#include "../array.h"
#include "../cpu/isa.h"
#include "rows.h"

namespace prestissimo {

enum class HeadNorm : uint8_t { none, layer, rms, dyt };
enum class Pairing : uint8_t { half, interleaved };

// [B, T, H, D]; the stride of D is 1. No data: absent.
struct HeadView {
  const void* data = nullptr;
  int64_t batch_stride = 0, time_stride = 0, head_stride = 0;
};
struct HeadOutput {
  void* data = nullptr;
  int64_t batch_stride = 0, time_stride = 0, head_stride = 0;
};

// q or k.
struct Heads {
  HeadView x;
  HeadOutput y;
  const void *weight = nullptr, *bias = nullptr;  // [D]
  const void* alpha = nullptr;                    // one number, dyt alone
  int64_t heads = 0;
};

struct QkNormRopeArgs {
  Heads q, k;
  const float *cos, *sin;  // [T, half]; null where nothing is rotated
  int64_t batch, time, dim, half;
  float eps;
  HeadNorm norm;
  Pairing pairing;
  DType dtype;          // of q and k
  DType vectors_dtype;  // of weights, biases and alphas: dtype or float32
};

// Sums over time go block by block of kTimeBlock rows of one head, then over the blocks and heads in their order:
// `partial` is, for q and then for k, [sums][B][time_blocks][H][D]. dalpha's is [D] too until the end.
struct HeadGradients {
  HeadView dy;
  HeadOutput dx;
  void *dweight = nullptr, *dbias = nullptr, *dalpha = nullptr;
  float* partial = nullptr;
};
struct HeadSums {
  int weight = -1, bias = -1, alpha = -1, count = 0;
};
__attribute__((always_inline)) inline HeadSums head_sums(const HeadGradients& g) {
  HeadSums s;
  if (g.dweight) s.weight = s.count++;
  if (g.dbias) s.bias = s.count++;
  if (g.dalpha) s.alpha = s.count++;
  return s;
}

struct QkNormRopeBackwardArgs {
  QkNormRopeArgs forward;  // y unused
  HeadGradients q, k;
};

// Rows of `partial` of one sum of q or of k.
inline int64_t head_rows(const QkNormRopeArgs& a, const Heads& h) { return a.batch * time_blocks(a.time) * h.heads; }
inline int64_t partial_size(const QkNormRopeBackwardArgs& a) {
  const QkNormRopeArgs& f = a.forward;
  return (head_sums(a.q).count * head_rows(f, f.q) + head_sums(a.k).count * head_rows(f, f.k)) * f.dim;
}

namespace cuda {
void qk_norm_rope(const QkNormRopeArgs&, Stream);
void qk_norm_rope_backward(const QkNormRopeBackwardArgs&, Stream);
}  // namespace cuda

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(qk_norm_rope, QkNormRopeArgs)
PRESTISSIMO_CPU_KERNEL(qk_norm_rope_backward, QkNormRopeBackwardArgs)
