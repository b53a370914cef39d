# SPDX-License-Identifier: Apache-2.0
"""What the CUDA cases of the diffusion ops share: batches of latents as csrc/ops/samples.h sees them."""

from __future__ import annotations

import ctypes
import zlib
from typing import Any

import numpy as np
import torch

from .cases import DTYPES, Buffer, as_bytes, inputs
from .devices import Device

DTYPE_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}
GAP = 16  # elements between the samples of an array that is sliced


class Samples(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64))


class Latents:
    """Arrays of one case: float64 tensors that hold exact values of the dtype, and where they lie on the device."""

    def __init__(self, device: Device, dtype: str, shape: tuple[int, ...], seed: str) -> None:
        self.device, self.dtype, self.shape = device, DTYPES[dtype], shape
        self.rng = np.random.default_rng(zlib.crc32(seed.encode()))

    def values(
        self, mean: float = 0.0, spread: float = 1.0, shape: tuple[int, ...] | None = None
    ) -> torch.Tensor:
        return inputs(self.rng, shape or self.shape, self.dtype, mean, spread)

    def view(self, values: torch.Tensor | None, misalign: int = 0, sliced: bool = False) -> Samples:
        """An input on the device; sliced: the samples lie GAP elements apart, NaN between them."""
        if values is None:
            return Samples()
        flat = values.reshape(values.shape[0], -1)
        stride = flat.shape[1] + GAP * sliced
        wide = torch.full((flat.shape[0], stride), float("nan"), dtype=torch.float64)
        wide[:, : flat.shape[1]] = flat
        raw = as_bytes(wide.to(self.dtype))
        return Samples(Buffer.of(self.device, raw, misalign * self.dtype.itemsize).address, stride)

    def output(self, misalign: int = 0) -> tuple[Buffer, Samples]:
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        address = self.device.allocate(size, None, misalign * self.dtype.itemsize)
        return Buffer(self.device, address, size), Samples(address, int(np.prod(self.shape[1:])))

    def vector(self, values: torch.Tensor) -> int:
        """Address of numbers, one for each sample, in their own dtype."""
        return Buffer.of(self.device, as_bytes(values)).address

    def result(self, buffer: Buffer) -> torch.Tensor:
        return buffer.tensor(self.dtype, self.shape)


def levels(rng: np.random.Generator, batch: int, low: float = 0.01, high: float = 80.0) -> torch.Tensor:
    """Noise levels, float32."""
    return torch.from_numpy(np.exp(rng.uniform(np.log(low), np.log(high), batch)).astype(np.float32))


def gradients(f: Any, leaves: list[torch.Tensor], dy: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """Of f(*leaves) by autograd in one dtype."""
    own = [v.to(dtype).requires_grad_() for v in leaves]
    return list(torch.autograd.grad(f(*own), own, dy.to(dtype)))
