// SPDX-License-Identifier: Apache-2.0
// Sums over time for each channel, in a fixed order. A block of kColumnThreads adds the kTimeBlock rows of one block of
// one sample for 32 V channels: its group g of 32 lanes takes rows g, g + 8, ..., and the groups are added in order
// into a row of `partial`. A second kernel adds the rows of `partial`.
#pragma once
#include "rows.cuh"

namespace prestissimo::cuda {

// A row of shared memory for the V channels of each of 32 lanes: planes of up to 4 channels, so that neighbouring lanes
// store neighbouring 16 bytes, the planes 16 floats off each other's banks, so that channels are read in order without
// conflict.
template <int V>
struct LaneRow {
  static constexpr int kChunk = V < 4 ? V : 4;
  static constexpr int kPlane = kWarpSize * kChunk + (V > kChunk ? 16 : 0);
  static constexpr int kFloats = kPlane * (V / kChunk);

  static PRESTISSIMO_DEVICE int position(int lane, int i) { return i / kChunk * kPlane + lane * kChunk + i % kChunk; }
  static PRESTISSIMO_DEVICE void put(float* row, int lane, const float (&v)[V]) {
#pragma unroll
    for (int i = 0; i < V; i += kChunk) {
      float chunk[kChunk];
#pragma unroll
      for (int j = 0; j < kChunk; ++j) chunk[j] = v[i + j];
      store(row + position(lane, i), chunk);
    }
  }
};

// time_blocks() of ops/rows.h, on the device.
PRESTISSIMO_DEVICE int64_t blocks_of(int64_t time) { return (time + kTimeBlock - 1) / kTimeBlock; }

// Where a block of the first kernel stands: sample b, rows [begin, end), channels from `first`, of which this thread
// has V from `c`.
template <int V>
struct ColumnPlace {
  int64_t b, block, begin, end;
  int first, c, lane, group;

  PRESTISSIMO_DEVICE ColumnPlace(int channels, int64_t time) {
    constexpr int kTile = kWarpSize * V;
    const uint32_t tiles = (channels + kTile - 1) / kTile, blocks = static_cast<uint32_t>(blocks_of(time));
    b = blockIdx.x / tiles / blocks;
    block = blockIdx.x / tiles % blocks;
    first = static_cast<int>(blockIdx.x % tiles) * kTile;
    lane = threadIdx.x % kWarpSize;
    group = threadIdx.x / kWarpSize;
    c = first + lane * V;
    begin = block * kTimeBlock + group;
    end = time < (block + 1) * kTimeBlock ? time : (block + 1) * kTimeBlock;
  }
};

// Adds the groups' sums into out[0 .. channels - first): `tile` is shared memory of kColumnGroups * LaneRow<V>::kFloats
// floats, free again when this returns.
template <int V>
PRESTISSIMO_DEVICE void add_groups(const ColumnPlace<V>& at, const float (&sum)[V], float* tile, float* out,
                                   int channels) {
  using Row = LaneRow<V>;
  Row::put(tile + at.group * Row::kFloats, at.lane, sum);
  __syncthreads();
  const int column = threadIdx.x;
  if (column < kWarpSize * V && at.first + column < channels) {
    const int position = Row::position(column / V, column % V);
    float total = 0.0f;
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) total += tile[g * Row::kFloats + position];
    out[column] = total;
  }
  __syncthreads();
}

// Sum of rows [0, rows) of partial[.][channels] in column c, for the threads of group 0; c may lie beyond the row.
// `tile` is shared memory of kColumnThreads floats.
PRESTISSIMO_DEVICE float add_rows(const float* partial, int64_t rows, int channels, int c, float* tile) {
  const int lane = threadIdx.x % kWarpSize, group = threadIdx.x / kWarpSize;
  float total = 0.0f;
  if (c < channels)
    for (int64_t r = group; r < rows; r += kColumnGroups) total += partial[r * channels + c];
  tile[group * kWarpSize + lane] = total;
  __syncthreads();
  if (group > 0) return 0.0f;
  total = 0.0f;
#pragma unroll
  for (int g = 0; g < kColumnGroups; ++g) total += tile[g * kWarpSize + lane];
  return total;
}

}  // namespace prestissimo::cuda
