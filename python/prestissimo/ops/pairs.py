# SPDX-License-Identifier: Apache-2.0
"""The workspace that GPU kernels over all pairs of M and N rows take; the CPU's need none (None)."""

from __future__ import annotations

from typing import Any

from .registration import scratch

TILE = 128  # csrc/ops/pairs.h
CHUNKS = 32
STRIP_BYTES = 96 << 20


def sums_workspace(a: Any, b: Any) -> Any:
    """Sums over the rows and the columns of the pairs, in chunks that give a GPU enough blocks."""
    M, N = a.shape[0], b.shape[0]
    chunks = min(CHUNKS, -(-max(M, N, 1) // TILE))
    return scratch(a, (2 * M + N + (M + N) // TILE + 2 * CHUNKS**2 + 64 + 2 * chunks * (M + N),), "float32")


def gradients_workspace(x: Any, rows: int, tile_rows: int, N: int, E: int, fixed: int = 0) -> Any:
    """The gradient of y, and for a strip of rows of x, in tiles, all that its gradient goes through: as many rows as
    fit STRIP_BYTES, one tile at least."""
    pitch, parts = -(-N // 8) * 8, 4
    each = pitch + parts * E  # of 4-byte types; others leave room for longer strips
    strip = min(-(-rows // tile_rows), max(STRIP_BYTES // (4 * each * tile_rows + 1), 1)) * tile_rows
    tiles = -(-strip // tile_rows) * -(-N // TILE)
    return scratch(x, (fixed + N * E + strip * each + 2 * tiles + 32,), "float32")
