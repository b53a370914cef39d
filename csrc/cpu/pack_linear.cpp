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

template <class T, class To>
void narrow_row(const T* w, int64_t stride, int64_t K, To* out) {
  for (int64_t k = 0; k < K; ++k) out[k] = narrow<To>(widen(w[k * stride]));
}
template <class To>
void narrow_row(const PackLinearArgs& a, int64_t n, To* out) {
  const int64_t at = n * a.stride_n;
  switch (a.dtype) {
    case DType::bfloat16: return narrow_row(static_cast<const bfloat16*>(a.weight) + at, a.stride_k, a.K, out);
    case DType::float16: return narrow_row(static_cast<const float16*>(a.weight) + at, a.stride_k, a.K, out);
    default: return narrow_row(static_cast<const float*>(a.weight) + at, a.stride_k, a.K, out);
  }
}

void pack_rows(const PackLinearArgs& a) {
  const int64_t stride = row_values(a.packing, a.K), bytes = stride * packed_item(a.packing);
  char* out = static_cast<char*>(a.out);
  auto* scales = reinterpret_cast<float*>(out + row_count(a.packing, a.N) * bytes);
  const int64_t size = row_bytes(a.packing, a.N, a.K);
  if (size == 0) return;  // no array behind out then
  memset(out, 0, static_cast<size_t>(size));
  parallel_for(a.N, 16384 / (a.K + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      char* row = out + n * bytes;
      if (a.packing == Packing::float32) {
        narrow_row(a, n, reinterpret_cast<float*>(row));
      } else if (a.packing == Packing::bfloat16) {
        narrow_row(a, n, reinterpret_cast<bfloat16*>(row));
      } else if (a.dtype != DType::int8) {
        quantize(a, n, n + 1, reinterpret_cast<int8_t*>(row), scales);
      } else {
        const auto* w = static_cast<const int8_t*>(a.weight) + n * a.stride_n;
        for (int64_t k = 0; k < a.K; ++k) row[k] = static_cast<char>(w[k * a.stride_k]);
        scales[n] = a.scale[n];
      }
    }
  });
}

}  // namespace

void pack_linear(const PackLinearArgs& a) {
  if (a.rows) return pack_rows(a);
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
