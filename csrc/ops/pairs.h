// SPDX-License-Identifier: Apache-2.0
// How ops over all pairs of rows of X [M, E] and Y [N, E] divide their workspace on a GPU, which is float32 and grows
// with M + N. The gradients go by strips of rows: as many as there is room for G = dL/d(X Y^T) and, in kDepthParts
// parts of its sum, for the gradient of X.
#pragma once
#include <algorithm>
#include <string>

#include "../array.h"

namespace prestissimo {

constexpr int64_t kPairTile = 128;  // of rows and of columns
constexpr int64_t kDepthParts = 4;

inline int64_t pair_tiles(int64_t n) { return (n + kPairTile - 1) / kPairTile; }
inline int64_t gradient_pitch(int64_t N) { return (N + 7) / 8 * 8; }  // 16 bytes in every type

// Floats that the gradients need: of a strip of `rows` rows, in tiles of at least `tile_rows`; `fixed` beside.
inline int64_t gradient_floats(DType t, int64_t rows, int64_t tile_rows, int64_t N, int64_t E, int64_t fixed) {
  const int64_t tiles = (rows + tile_rows - 1) / tile_rows * pair_tiles(N);
  return fixed + N * E + rows * (gradient_pitch(N) * item_size(t) / 4 + kDepthParts * E) + 2 * tiles + 32;
}

// The longest strip of whole tiles that a workspace has room for.
inline int64_t strip_rows(const char* op, DType t, int64_t size, int64_t M, int64_t tile_rows, int64_t N, int64_t E,
                          int64_t fixed) {
  const int64_t none = gradient_floats(t, 0, tile_rows, N, E, fixed);
  const int64_t each = gradient_floats(t, tile_rows, tile_rows, N, E, fixed) - none;
  const int64_t tiles = std::min(size < none ? 0 : (size - none) / each, (M + tile_rows - 1) / tile_rows);
  if (tiles < 1 && M > 0) fail(op, "workspace must have at least " + std::to_string(none + each) + " elements");
  return std::min(tiles * tile_rows, M);
}

// The GPU kernels' workspace; on the CPU null. How much they need their launch plans say.
inline float* pair_workspace(const char* op, const Array* workspace, const Array& like, int64_t* size) {
  *size = 0;
  if (like.device.type == DeviceType::cpu) return nullptr;
  if (!workspace) fail(op, "workspace must be given on a GPU");
  const Checker check(op, "workspace", *workspace);
  check.dtype({DType::float32}).ndim(1).same_device("workspace", like);
  *size = workspace->size(0);
  return workspace->as<float>();
}

}  // namespace prestissimo
