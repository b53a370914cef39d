# SPDX-License-Identifier: Apache-2.0
"""What the CUDA cases of ops on lists of tensors share (csrc/ops/tensor_group.h)."""

from __future__ import annotations

import ctypes
import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, as_bytes, inputs
from .devices import Device
from .latents import DTYPE_CODES

MOST, BLOCK = 64, 4096  # kMostTensors and kListBlock


@functools.cache
def group(n: int) -> type[ctypes.Structure]:
    """TensorGroup<n>."""

    class Group(ctypes.Structure):
        _fields_ = (
            ("data", ctypes.c_void_p * MOST * n),
            ("sizes", ctypes.c_int64 * MOST),
            ("first_blocks", ctypes.c_int32 * (MOST + 1)),
            ("count", ctypes.c_int32),
        )

    return Group


def blocks(size: int) -> int:
    return -(-size // BLOCK)


@dataclass(frozen=True)
class Case:
    sizes: tuple[int, ...]
    dtype: str = "float32"
    option: int = 0  # what it chooses is the op's
    misalign: int = 0  # elements, of the first tensor

    def __str__(self) -> str:
        words = [f"{len(self.sizes)}-tensors-of-{sum(self.sizes)}", self.dtype, f"option{self.option}"]
        return "-".join(words + ["misaligned"] * bool(self.misalign))


class Lists:
    """Arrays of one case: float64 tensors that hold exact values of the dtype, and where they lie on the device."""

    def __init__(self, device: Device, case: Case, name: str) -> None:
        self.device, self.case, self.dtype = device, case, DTYPES[case.dtype]
        self.rng = np.random.default_rng(zlib.crc32(f"{name} {case}".encode()))

    def values(self, mean: float) -> list[torch.Tensor]:
        return [inputs(self.rng, (n,), self.dtype, mean) for n in self.case.sizes]

    def view(self, values: torch.Tensor) -> int:
        return Buffer.of(
            self.device, as_bytes(values.to(self.dtype)), self.case.misalign * self.dtype.itemsize
        ).address

    def output(self, size: int) -> tuple[Buffer, int]:
        buffer = Buffer.empty(self.device, size * self.dtype.itemsize)
        return buffer, buffer.address

    def group(self, lists: Sequence[Sequence[int]], sizes: Sequence[int]) -> ctypes.Structure:
        g = group(len(lists))()
        first = 0
        for i, size in enumerate(sizes):
            for n, addresses in enumerate(lists):
                g.data[n][i] = addresses[i]
            g.sizes[i], g.first_blocks[i] = size, first
            first += blocks(size)
        g.first_blocks[len(sizes)], g.count = first, len(sizes)
        return g


def sweep(options: int) -> list[Case]:
    """Every kernel on whole vectors and without, blocks and one element less and more, tensors that end in each of the
    steps of a block's threads (256 elements, with vectors 1024 or 2048); two tensors, and full groups."""
    ends = tuple(256 * k + 8 for k in range(BLOCK // 256))
    cases = []
    for d, dtype in enumerate(DTYPE_CODES):
        lists = ((1,), (8, 3, 4096, 5), (4095, 4097, 16, 1032, 2056, 3080), (24, 8191))
        cases += [Case(sizes, dtype, (d + i) % options) for i, sizes in enumerate(lists)]
        cases.append(Case((4099, *ends), dtype, d % options, misalign=1))
    return [*cases, Case(tuple(range(1, MOST + 1)), option=0)]
