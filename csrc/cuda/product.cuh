// SPDX-License-Identifier: Apache-2.0
// Tiles of matrix products C = A B for kernels that reduce C and need not store it: of 16-bit types on the tensor
// cores, of float by fma, sums in float32 in fragments of mma.m16n8k16 either way (ptx.cuh).
//
// A block of kProductThreads makes kTileRows x kTileColumns of C: eight warps, two along the rows, four along the
// columns. Both operands come through shared memory in slabs of 64 bytes of depth, two slabs in flight; rows
// in shared memory are padded by 16 bytes, which keeps ldmatrix free of bank conflicts.
#pragma once
#include <type_traits>

#include "launch.h"
#include "ptx.cuh"
#include "vec.cuh"

namespace prestissimo::cuda {

constexpr int kProductThreads = 256;
constexpr int kTileRows = 128;
constexpr int kTileColumns = 128;
constexpr int kSlabBytes = 10240;  // of one operand: 128 lines of 64 bytes and padding
constexpr int kProductShared = 4 * kSlabBytes;

// Half a tile in shared memory, in the place of the slabs; the pitch keeps pairs of floats free of bank conflicts.
constexpr int kStageColumns = 64, kStagePitch = 72;
static_assert(kTileRows * kStagePitch * 4 <= kProductShared);

// Along which index of an operand the neighbours in memory lie: its depth, which the product sums over, or its lines,
// the rows of A or columns of B.
enum class Major : int { depth, line };

template <class T>
struct Operand {
  const T* data;
  int64_t stride;  // between lines (Major::depth) or between depths (Major::line)
  int64_t lines, depth;
  bool chunks;  // 16 bytes may be copied at once: data aligned, stride and the inner extent multiples of 16 bytes
};

template <Major kMajor, class T>
PRESTISSIMO_DEVICE Operand<T> operand(const void* data, int64_t stride, int64_t lines, int64_t depth) {
  constexpr int kLanes = kLanes16<T>;
  const int64_t inner = kMajor == Major::depth ? depth : lines;
  const bool chunks = (reinterpret_cast<uintptr_t>(data) & 15) == 0 && stride % kLanes == 0 && inner % kLanes == 0;
  return {static_cast<const T*>(data), stride, lines, depth, chunks};
}

template <class T, Major kMajorA, Major kMajorB>
class TileProduct {
 public:
  static constexpr int kRowFragments = 4;     // of 16 rows, to a warp
  static constexpr int kColumnFragments = 4;  // of 8 columns
  float sum[kRowFragments][kColumnFragments][4];

  // The tile whose first element is C[row][column]. `shared`, kProductShared bytes, is free again when this returns,
  // and what all threads did before it is visible to all.
  PRESTISSIMO_DEVICE void run(const Operand<T>& a, int64_t row, const Operand<T>& b, int64_t column,
                              unsigned char* shared) {
#pragma unroll
    for (int m = 0; m < kRowFragments; ++m)
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.0f;
    const int64_t depth = a.depth > b.depth ? a.depth : b.depth;
    __syncthreads();
    if (depth > 0) load(a, row, b, column, 0, shared);
    ptx::cp_async_commit();
    int stage = 0;
    for (int64_t k = 0; k < depth; k += kDepth) {
      if (k + kDepth < depth) load(a, row, b, column, k + kDepth, shared + (1 - stage) * 2 * kSlabBytes);
      ptx::cp_async_commit();
      ptx::cp_async_wait<1>();
      __syncthreads();
      const T* slab = reinterpret_cast<const T*>(shared + stage * 2 * kSlabBytes);
      multiply(slab, slab + kSlabBytes / static_cast<int>(sizeof(T)));
      __syncthreads();
      stage = 1 - stage;
    }
    ptx::cp_async_wait<0>();
  }

  // Calls f(r, c, value) for the elements that this thread holds, r and c within the tile, c and c + 1 in turn.
  template <class F>
  PRESTISSIMO_DEVICE void each(F f) {
#pragma unroll
    for (int m = 0; m < kRowFragments; ++m)
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) f(row_of(m, i >> 1), column_of(n, i & 1), sum[m][n][i]);
  }

  // Columns [kStageColumns half, ... + kStageColumns) of the tile to shared memory, row r from stage[r * kStagePitch]
  // on. A barrier belongs behind it, and before it where the memory was in use.
  PRESTISSIMO_DEVICE void stage(int half, float* out) const {
    if (static_cast<int>(threadIdx.x / 64 % 2) != half) return;
#pragma unroll
    for (int m = 0; m < kRowFragments; ++m)
#pragma unroll
      for (int n = 0; n < kColumnFragments; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          *reinterpret_cast<float2*>(out + row_of(m, h) * kStagePitch + column_of(n, 0) % kStageColumns) =
              make_float2(sum[m][n][2 * h], sum[m][n][2 * h + 1]);
  }

  static PRESTISSIMO_DEVICE int row_of(int m, int half) {
    return static_cast<int>(threadIdx.x / 128) * (kTileRows / 2) + m * 16 + half * 8 +
           static_cast<int>(threadIdx.x % 32 / 4);
  }
  static PRESTISSIMO_DEVICE int column_of(int n, int side) {
    return static_cast<int>(threadIdx.x / 32 % 4) * 32 + n * 8 + static_cast<int>(threadIdx.x % 4) * 2 + side;
  }

 private:
  static constexpr int kSize = static_cast<int>(sizeof(T));
  static constexpr int kDepth = 64 / kSize;
  static constexpr int kLines = 128;  // of a slab: rows of A or columns of B
  static_assert(kLines == kTileRows && kLines == kTileColumns);
  template <Major kMajor>
  static constexpr int kPitch = kMajor == Major::depth ? 80 / kSize : kLines + 16 / kSize;

  static PRESTISSIMO_DEVICE void load(const Operand<T>& a, int64_t row, const Operand<T>& b, int64_t column, int64_t k,
                                      unsigned char* stage) {
    slab<kMajorA>(a, row, k, reinterpret_cast<T*>(stage));
    slab<kMajorB>(b, column, k, reinterpret_cast<T*>(stage + kSlabBytes));
  }

  // Zeros beyond the operand's end.
  template <Major kMajor>
  static PRESTISSIMO_DEVICE void slab(const Operand<T>& o, int64_t line, int64_t depth, T* out) {
    constexpr int kLanes = kLanes16<T>, kAcross = kMajor == Major::depth ? kDepth / kLanes : kLines / kLanes;
    for (int chunk = threadIdx.x; chunk < kLines * 4; chunk += kProductThreads) {
      const int outer = chunk / kAcross, inner = chunk % kAcross * kLanes;
      const int64_t l = line + (kMajor == Major::depth ? outer : inner),
                    k = depth + (kMajor == Major::depth ? inner : outer);
      T* to = out + outer * kPitch<kMajor> + inner;
      if (o.chunks) {
        const bool valid = l < o.lines && k < o.depth;
        const T* from = o.data + (kMajor == Major::depth ? l * o.stride + k : k * o.stride + l);
        ptx::cp_async_16(to, valid ? from : o.data, valid);
      } else {
#pragma unroll
        for (int j = 0; j < kLanes; ++j) {
          const int64_t lj = kMajor == Major::depth ? l : l + j, kj = kMajor == Major::depth ? k + j : k;
          const bool valid = lj < o.lines && kj < o.depth;
          to[j] =
              valid ? o.data[kMajor == Major::depth ? lj * o.stride + kj : kj * o.stride + lj] : from_float<T>(0.0f);
        }
      }
    }
  }

  PRESTISSIMO_DEVICE void multiply(const T* a, const T* b) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp / 4 * (kTileRows / 2), column = warp % 4 * 32;
    constexpr int kPitchA = kPitch<kMajorA>, kPitchB = kPitch<kMajorB>;
    if constexpr (std::is_same_v<T, float>) {
      const int g = lane / 4, q = lane % 4 * 2;
      for (int k = 0; k < kDepth; ++k) {
        float x[kRowFragments][2], y[kColumnFragments][2];
#pragma unroll
        for (int m = 0; m < kRowFragments; ++m)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int l = row + m * 16 + h * 8 + g;
            x[m][h] = a[kMajorA == Major::depth ? l * kPitchA + k : k * kPitchA + l];
          }
#pragma unroll
        for (int n = 0; n < kColumnFragments; ++n)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int l = column + n * 8 + q + h;
            y[n][h] = b[kMajorB == Major::depth ? l * kPitchB + k : k * kPitchB + l];
          }
#pragma unroll
        for (int m = 0; m < kRowFragments; ++m)
#pragma unroll
          for (int n = 0; n < kColumnFragments; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[m][n][i] = __fmaf_rn(x[m][i >> 1], y[n][i & 1], sum[m][n][i]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        uint32_t x[kRowFragments][4];
#pragma unroll
        for (int m = 0; m < kRowFragments; ++m) {
          const int l = row + m * 16;
          if constexpr (kMajorA == Major::depth)
            ptx::ldmatrix(x[m], a + (l + lane % 16) * kPitchA + k + lane / 16 * 8);
          else
            ptx::ldmatrix<true>(x[m], a + (k + lane / 16 * 8 + lane % 8) * kPitchA + l + lane / 8 % 2 * 8);
        }
#pragma unroll
        for (int n = 0; n < kColumnFragments; n += 2) {
          const int l = column + n * 8;
          uint32_t y[4];
          if constexpr (kMajorB == Major::depth)
            ptx::ldmatrix(y, b + (l + lane / 16 * 8 + lane % 8) * kPitchB + k + lane / 8 % 2 * 8);
          else
            ptx::ldmatrix<true>(y, b + (k + lane % 16) * kPitchB + l + lane / 16 * 8);
#pragma unroll
          for (int m = 0; m < kRowFragments; ++m) {
            ptx::mma_m16n8k16<T>(sum[m][n], x[m], y[0], y[1]);
            ptx::mma_m16n8k16<T>(sum[m][n + 1], x[m], y[2], y[3]);
          }
        }
      }
    }
  }
};

// M(suffix, T, ...): the types that an operand is stored in.
#define PRODUCT_TYPES(M, ...) M(f32, float, __VA_ARGS__) M(bf16, bf16, __VA_ARGS__) M(f16, f16, __VA_ARGS__)
inline int product_type(DType t) { return t == DType::float32 ? 0 : t == DType::bfloat16 ? 1 : 2; }

}  // namespace prestissimo::cuda
