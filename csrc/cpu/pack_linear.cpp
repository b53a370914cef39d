// SPDX-License-Identifier: Apache-2.0
#include "../ops/pack_linear.h"

#include "gemm.h"
#include "scratch.h"
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

static_assert(kPanel == kPackedColumns);

struct Scale {
  float scale, inverse;
};
inline Scale scale_of(float largest) {
  const float inverse = 127.0f / largest;
  if (!(largest < __builtin_inff())) return {__builtin_nanf(""), 0.0f};
  return {largest / 127.0f, inverse < __FLT_MAX__ ? inverse : __FLT_MAX__};
}

// Rows [first, last) of the weight as int8, and their scales.
template <class T>
void quantize(const PackLinearArgs& a, int64_t first, int64_t last, int8_t* out, float* scales) {
  for (int64_t n = first; n < last; ++n, out += a.K) {
    const T* w = static_cast<const T*>(a.weight) + n * a.stride_n;
    uint32_t largest = 0;  // as an integer of the same order, NaN above infinity
    for (int64_t k = 0; k < a.K; ++k) {
      const uint32_t bits = float_to_bits(widen(w[k * a.stride_k])) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
    }
    const Scale s = scale_of(bits_to_float(largest));
    scales[n] = s.scale;
    for (int64_t k = 0; k < a.K; ++k) {
      const float sum = widen(w[k * a.stride_k]) * s.inverse + 0x1.8p23f;  // the rounded number in the low bits
      out[k] = static_cast<int8_t>(float_to_bits(sum));
    }
  }
}

void quantize(const PackLinearArgs& a, int64_t first, int64_t last, int8_t* out, float* scales) {
  switch (a.dtype) {
    case DType::bfloat16: return quantize<bfloat16>(a, first, last, out, scales);
    case DType::float16: return quantize<float16>(a, first, last, out, scales);
    default: return quantize<float>(a, first, last, out, scales);
  }
}

}  // namespace

void pack_linear(const PackLinearArgs& a) {
  const Dot dot = a.packing == Packing::float32    ? Dot::float32
                  : a.packing == Packing::bfloat16 ? Dot::bfloat16
                                                   : Dot::int8;
  const PackedB b{dot, a.K, a.N, a.out};
  const bool rounds = dot == Dot::int8 && a.dtype != DType::int8;
  float* scales = reinterpret_cast<float*>(static_cast<char*>(a.out) + packed_scales(a.N, a.K));
  if (dot == Dot::int8)
    for (int64_t n = 0; n < b.panels() * kPanel; ++n) scales[n] = n < a.N && a.scale ? a.scale[n] : 0.0f;
  bool failed = false;
  parallel_for(b.panels(), 1, [&](int64_t begin, int64_t end) {
    if (!rounds) return pack_b(b, {a.weight, a.dtype, a.stride_n, a.stride_k}, begin, end);
    const Scratch scratch(kPanel * a.K);
    if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    for (int64_t p = begin; p < end; ++p) {
      auto* rows = scratch.as<int8_t>();
      quantize(a, p * kPanel, p * kPanel + b.columns(p), rows, scales);
      // pack_b counts columns from the first of all
      pack_b(b, {rows - p * kPanel * a.K, DType::int8, a.K, 1}, p, p + 1);
    }
  });
  if (failed) out_of_memory();
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
