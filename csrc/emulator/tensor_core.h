// SPDX-License-Identifier: Apache-2.0
// What ldmatrix and mma.m16n8k16 do to a warp. Layouts: the head of cuda/ptx.cuh.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>

#include "cuda.h"

namespace emulator {

struct LoadedMatrices {
  const uint16_t* row;  // this lane's row address
  uint32_t result[4];
};

template <int Matrices, bool Transposed>
void load_matrices(const std::array<LoadedMatrices*, kWarp>& lanes, unsigned) {
  const int first_thread = block().warp() * kWarp;
  Thread* const caller = block().current;
  for (int l = 0; l < 8 * Matrices; ++l) {
    if (reinterpret_cast<uintptr_t>(lanes[l]->row) % 16) found("ldmatrix: a row address is not 16-byte aligned");
    block().current = &block().threads[first_thread + l];  // the row is read on behalf of the lane that names it
    races::note(lanes[l]->row, 16, races::Access::read);
  }
  block().current = caller;
  for (int l = 0; l < kWarp; ++l) {
    for (int i = 0; i < Matrices; ++i) {
      const auto row = [&](int r) { return lanes[8 * i + r]->row; };
      const int g = l / 4, q = 2 * (l % 4);
      const uint16_t low = Transposed ? row(q)[g] : row(g)[q];
      const uint16_t high = Transposed ? row(q + 1)[g] : row(g)[q + 1];
      lanes[l]->result[i] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

struct Fragments {
  float c[4];
  uint32_t a[4], b[2];
};

// One exact sum, or every addend cut to 24 bits below the largest: a harsher adder than any tensor core is known to
// have.
inline float tensor_core_sum(const double* addend, int n) {
  if (block().options.mma_truncate) {
    int top = -2000;
    for (int i = 0; i < n; ++i)
      if (addend[i] != 0 && std::isfinite(addend[i])) top = std::max(top, std::ilogb(addend[i]));
    if (top > -2000) {
      const double unit = std::ldexp(1.0, top - 23);
      double sum = 0;
      for (int i = 0; i < n; ++i) sum += std::isfinite(addend[i]) ? std::trunc(addend[i] / unit) * unit : addend[i];
      return static_cast<float>(sum);
    }
  }
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += addend[i];
  return static_cast<float>(sum);
}

template <class T>
float half_of(uint32_t pair, int upper) {
  const auto bits = static_cast<uint16_t>(upper ? pair >> 16 : pair);
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(bits));
  return static_cast<float>(value);
}

template <class T>
void multiply_accumulate(const std::array<Fragments*, kWarp>& lanes, unsigned) {
  static float A[16][16], B[16][8];
  for (int l = 0; l < kWarp; ++l) {
    const int g = l / 4, q = 2 * (l % 4);
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 4; ++i) A[g + 8 * (i & 1)][q + 8 * (i >> 1) + h] = half_of<T>(lanes[l]->a[i], h);
      for (int i = 0; i < 2; ++i) B[q + 8 * i + h][g] = half_of<T>(lanes[l]->b[i], h);
    }
  }
  for (int l = 0; l < kWarp; ++l) {
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + 8 * (i >> 1), column = 2 * (l % 4) + (i & 1);
      double addend[17];
      for (int k = 0; k < 16; ++k) addend[k] = static_cast<double>(A[row][k]) * B[k][column];
      addend[16] = lanes[l]->c[i];
      lanes[l]->c[i] = tensor_core_sum(addend, 17);
    }
  }
}

}  // namespace emulator
