# SPDX-License-Identifier: Apache-2.0
"""The workspace that GPU kernels over all pairs of M and N rows take; the CPU's need none (None)."""

from __future__ import annotations

from typing import Any

from .registration import scratch

TILE = 128  # csrc/ops/pairs.h
STRIP_BYTES = 96 << 20


def gradients_workspace(x: Any, rows: int, tile_rows: int, N: int, E: int, fixed: int = 0) -> Any:
    """The gradient of y, and for a strip of rows of x, in tiles, all that its gradient goes through: as many rows as
    fit STRIP_BYTES, one tile at least."""
    pitch, parts = -(-N // 8) * 8, 4
    each = pitch + parts * E  # of 4-byte types; others leave room for longer strips
    strip = min(-(-rows // tile_rows), max(STRIP_BYTES // (4 * each * tile_rows + 1), 1)) * tile_rows
    tiles = -(-strip // tile_rows) * -(-N // TILE)
    return scratch(x, (fixed + N * E + strip * each + 2 * tiles + 32,), "float32")
