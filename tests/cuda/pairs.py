# SPDX-License-Identifier: Apache-2.0
"""What the CUDA cases of ops over all pairs share: arrays, the workspace of the gradients, the parts they come in."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import torch

from .cases import DTYPES, Buffer, as_bytes, compare, run_plan
from .devices import Device, HostDevice

DTYPE_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}
TILE, DEPTH_PARTS = 128, 4  # csrc/ops/pairs.h
PITCH = 8  # elements between rows, NaN, where rows do not lie close


def tiles(n: int, size: int = TILE) -> int:
    return -(-n // size)


class Pairs:
    """Draws a case's arrays and lays them on the device."""

    def __init__(self, device: Device, dtype: str, name: str) -> None:
        self.device, self.dtype, self.code = device, DTYPES[dtype], DTYPE_CODES[dtype]
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def unit_rows(self, *shape: int, towards: torch.Tensor | None = None) -> torch.Tensor:
        """Rows of length 1 before they are rounded to the dtype; as float64."""
        x = torch.from_numpy(self.rng.standard_normal(shape))
        if towards is not None:
            x = x + towards
        return self.rounded(x / x.norm(dim=-1, keepdim=True))

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.dtype).double()

    def rows(self, x: torch.Tensor, close: bool) -> tuple[int, int]:
        """Address and stride of rows along the last dimension."""
        E = x.shape[-1]
        pitch = E if close else E + PITCH
        wide = torch.full((x.numel() // E, pitch), float("nan"), dtype=self.dtype)
        wide[:, :E] = x.reshape(-1, E)
        return self.address(wide), pitch

    def address(self, x: torch.Tensor | None) -> int | None:  # type: ignore[return]
        return None if x is None else Buffer.of(self.device, as_bytes(x)).address

    def number(self, x: float | torch.Tensor) -> int | None:
        return self.address(torch.as_tensor(x, dtype=torch.float32).reshape(1))

    def output(self, *shape: int) -> Buffer:
        return Buffer.empty(self.device, int(np.prod(shape)) * self.dtype.itemsize)

    def floats(self, count: int, size: int = 4) -> Buffer:
        return Buffer.empty(self.device, count * size)

    def gradient_floats(self, strip: int, tile_rows: int, N: int, E: int, fixed: int) -> int:
        """gradient_floats of csrc/ops/pairs.h."""
        pitch = tiles(N, 8) * 8 * self.dtype.itemsize // 4
        sums = 2 * tiles(strip, tile_rows) * tiles(N)
        return fixed + N * E + strip * (pitch + DEPTH_PARTS * E) + sums + 32


def gradient_parts(rows: int, strip: int) -> Iterator[tuple[int, int, int, int]]:
    """for_gradient_parts of csrc/cuda/product_gradients.cuh: part, strip, first, rows."""
    strip = min(strip, rows)
    yield 0, strip, 0, strip
    for first in range(0, rows, strip):
        yield 1, strip, first, min(strip, rows - first)
    yield 2, strip, 0, strip


PART_FIELDS = tuple((name, ctypes.c_int64) for name in ("part", "strip", "first", "rows"))


def run_parts(
    device: Device,
    planner: HostDevice,
    op: str,
    rows: int,
    strip: int,
    part: Callable[[tuple[int, int, int, int]], ctypes.Structure],
) -> list[str]:
    findings = []
    for numbers in gradient_parts(rows, strip):
        findings += run_plan(device, planner, op, part(numbers))
    return findings


def compare_number(
    name: str,
    got: torch.Tensor,
    exact: torch.Tensor,
    same: torch.Tensor,
    beside: float,
    gradient: bool = False,
) -> list[str]:
    """A number that is a difference or a sum of terms as large as `beside`, whose rounding is its own."""
    stack = lambda v: torch.stack([v.reshape(()), torch.tensor(beside, dtype=v.dtype)])  # noqa: E731
    return compare(name, stack(got.float()), stack(exact), stack(same), gradient=gradient)
