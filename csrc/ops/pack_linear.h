// SPDX-License-Identifier: Apache-2.0
// The weight [N, K] of a linear layer, laid out once for the products of cpu/gemm.h, the same for every ISA:
//
//   panels [ceil(N / 32)][ceil(K / s)][32][s]      s = 1, 2, 4 values of float32, bfloat16, int8; zeros fill up
//   offsets int32 [32 ceil(N / 32)]                int8 only: -128 times the sum of each row's values
//   scales float32 [32 ceil(N / 32)]               int8 only
//
// or, for a GPU and cuBLASLt, as rows:
//
//   values [N'][K']                    K' a multiple of 16 bytes; int8: N' a multiple of 16; zeros fill up
//   scales float32 [N']                int8 only
//
// int8: scale[n] = max|weight[n]| / 127, value = weight * (127 / max|weight[n]|) rounded to nearest even; a row with
// infinities or NaN has scale NaN and values 0. An int8 weight comes with its scales.
#pragma once
#include "../array.h"
#include "../cpu/isa.h"

namespace prestissimo {

enum class Packing : uint8_t { none, float32, bfloat16, int8 };

constexpr int64_t kPackedColumns = 32;

constexpr int64_t packed_panels(int64_t N) { return (N + kPackedColumns - 1) / kPackedColumns; }
constexpr int64_t packed_steps(Packing p, int64_t K) {
  return p == Packing::int8 ? (K + 3) / 4 : p == Packing::bfloat16 ? (K + 1) / 2 : K;
}
// Where the scales of int8 begin.
constexpr int64_t packed_scales(int64_t N, int64_t K) {
  return packed_panels(N) * kPackedColumns * (packed_steps(Packing::int8, K) + 1) * 4;
}
constexpr int64_t packed_bytes(Packing p, int64_t N, int64_t K) {
  return p == Packing::int8 ? packed_scales(N, K) + packed_panels(N) * kPackedColumns * 4
                            : packed_panels(N) * kPackedColumns * packed_steps(p, K) * 4;
}

constexpr int64_t packed_item(Packing p) { return p == Packing::int8 ? 1 : p == Packing::bfloat16 ? 2 : 4; }
constexpr int64_t row_values(Packing p, int64_t K) { return (K * packed_item(p) + 15) / 16 * 16 / packed_item(p); }
constexpr int64_t row_count(Packing p, int64_t N) { return p == Packing::int8 ? (N + 15) / 16 * 16 : N; }
constexpr int64_t row_bytes(Packing p, int64_t N, int64_t K) {
  return row_count(p, N) * (row_values(p, K) * packed_item(p) + (p == Packing::int8 ? 4 : 0));
}

Packing parse_packing(const char* op, const char* argument, std::string_view text);  // "float32", "bfloat16", "int8"

struct PackLinearArgs {
  const void* weight;  // [N, K], any strides
  int64_t stride_n, stride_k;
  const float* scale;  // [N], with int8 weights
  void* out;           // packed_bytes()
  int64_t N, K;
  Packing packing;
  bool rows;
  DType dtype;  // of the weight
};

}  // namespace prestissimo

PRESTISSIMO_CPU_KERNEL(pack_linear, PackLinearArgs)
