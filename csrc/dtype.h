// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace prestissimo {

enum class DType : uint8_t { float32, bfloat16, float16, float64, int8, int32, int64, uint8, boolean };

// Storage only: arithmetic is done on float lanes (cpu/vec.h, cuda/vec.cuh).
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

constexpr int64_t item_size(DType t) {
  switch (t) {
    case DType::float64:
    case DType::int64: return 8;
    case DType::float32:
    case DType::int32: return 4;
    case DType::bfloat16:
    case DType::float16: return 2;
    default: return 1;
  }
}

constexpr const char* name(DType t) {
  switch (t) {
    case DType::float32: return "float32";
    case DType::bfloat16: return "bfloat16";
    case DType::float16: return "float16";
    case DType::float64: return "float64";
    case DType::int8: return "int8";
    case DType::int32: return "int32";
    case DType::int64: return "int64";
    case DType::uint8: return "uint8";
    case DType::boolean: return "bool";
  }
  return "?";
}

}  // namespace prestissimo
