# SPDX-License-Identifier: Apache-2.0
"""What the CUDA cases of the ops on frames share: spectrograms as csrc/ops/inverse_stft.h sees them."""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import Buffer, as_bytes, inputs
from .devices import Device

GAP = 7  # floats between the frames of an array that is sliced


class Frames(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("frame_stride", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Case:
    """`sliced`: frames lie apart, NaN between them; `hann`: no window is given; `wanted`: of the two gradients."""

    batch: int
    frames: int
    n_fft: int
    overlap: int = 4
    hann: bool = False
    sliced: bool = False
    rounds: int = 1
    wanted: tuple[bool, bool] = (True, True)

    @property
    def hop(self) -> int:
        return self.n_fft // self.overlap

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.batch, self.frames, self.n_fft // 2 + 1

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.frames}x{self.n_fft}-{self.overlap}"]
        words += (
            ["hann"] * self.hann + ["sliced"] * self.sliced + [f"{self.rounds}rounds"] * (self.rounds > 1)
        )
        words += ["".join("np"[w] for w in self.wanted)] * (not all(self.wanted))
        return "-".join(words)


class Spectrogram:
    """Inputs of one case as float64 tensors of float32 values, and where they lie on the device."""

    def __init__(self, case: Case, device: Device) -> None:
        rng = np.random.default_rng(zlib.crc32(str(case).encode()))
        self.case, self.device = case, device
        self.log_magnitude = inputs(rng, case.shape, torch.float32, -0.5, 0.7).clamp(-8, 3)
        self.phase = torch.from_numpy(rng.uniform(-3.2, 3.2, case.shape).astype(np.float32)).double()
        self.window = None
        if not case.hann:
            noise = torch.from_numpy(rng.random(case.n_fft))
            window = torch.hann_window(case.n_fft, dtype=torch.float64) + 0.1 * noise
            self.window = window.float().double()
        self.rng = rng

    def view(self, values: torch.Tensor) -> Frames:
        B, T, F = values.shape
        wide = torch.full((B, T, F + GAP * self.case.sliced), float("nan"), dtype=torch.float32)
        wide[..., :F] = values
        return Frames(Buffer.of(self.device, as_bytes(wide)).address, wide.stride(0), wide.stride(1))

    def window_address(self) -> int | None:
        return None if self.window is None else Buffer.of(self.device, as_bytes(self.window.float())).address

    def empty(self, *shape: int) -> Buffer:
        return Buffer.empty(self.device, 4 * int(np.prod(shape)))


# Every size of the kernels; whole and ragged blocks of rows and frames, fewer frames than overlap.
SWEEP = [
    Case(1, 1, 8),
    Case(2, 9, 8, 2),
    Case(1, 3, 16, hann=True),
    Case(1, 8, 32, 8),
    Case(3, 2, 64, sliced=True),
    Case(1, 17, 64, 16),
    Case(1, 7, 128, hann=True),
    Case(1, 5, 256, sliced=True),
    Case(1, 4, 512, 2, hann=True),
    Case(1, 9, 512),
    Case(1, 3, 1024, sliced=True),
    Case(2, 2, 2048, hann=True),
    Case(1, 9, 2048),
    Case(1, 2, 4096, 8, hann=True),
    Case(1, 2, 4096),
]
