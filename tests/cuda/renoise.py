# SPDX-License-Identifier: Apache-2.0
"""`renoise` as cases for the CUDA lanes: every bit as the reference has it."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import torch

from .cases import Outcome, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES, Latents, Samples, levels

op = importlib.import_module("prestissimo.ops.renoise")


class FrameNoise(ctypes.Structure):
    _fields_ = (("seeds", ctypes.c_void_p), ("items", ctypes.c_void_p), ("stream", ctypes.c_uint32))


class Args(ctypes.Structure):
    _fields_ = (
        ("x", Samples),
        ("y", Samples),
        ("sigma", ctypes.c_void_p),
        ("noise", FrameNoise),
        ("batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("frames", ctypes.c_int64),
        ("dtype", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case:
    batch: int
    channels: int
    frames: int
    dtype: str = "float32"
    stream: int = 0
    sliced: bool = False

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.channels}x{self.frames}", self.dtype, f"stream{self.stream}"]
        return "-".join(words + ["sliced"] * self.sliced)


def noise_words(a: Latents) -> tuple[torch.Tensor, torch.Tensor]:
    """Seeds and items."""
    batch = a.shape[0]
    seeds = torch.from_numpy(a.rng.integers(-(2**63), 2**63 - 1, batch))
    return seeds, torch.from_numpy(a.rng.integers(0, 2**32, batch))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    a = Latents(device, case.dtype, (case.batch, case.channels, case.frames), f"renoise {case}")
    x, sigma = a.values(0.2), levels(a.rng, case.batch)
    seeds, items = noise_words(a)
    buffer, y = a.output()
    args = Args(
        a.view(x, sliced=case.sliced),
        y,
        a.vector(sigma),
        FrameNoise(a.vector(seeds), a.vector(items), case.stream),
        *a.shape,
        DTYPE_CODES[case.dtype],
    )
    findings = run_plan(device, planner, "renoise", args)
    got, expected = a.result(buffer), op.reference(x.to(a.dtype), sigma, seeds, items, case.stream)
    integers = torch.int32 if a.dtype == torch.float32 else torch.int16
    differ = got.view(integers) != expected.view(integers)
    wrong = (
        [f"y: {int(differ.sum())} of {differ.numel()} values differ in their bits"] if differ.any() else []
    )
    return Outcome(findings, wrong, {"y": got})


CASES = [
    Case(*shape, dtype, (5, 0, 2**32 - 1)[(i + j) % 3], sliced=(i + j) % 2 == 1)
    for i, shape in enumerate(
        [(1, 4, 128), (2, 8, 129), (1, 1, 37), (2, 3, 127), (3, 5, 130), (1, 6, 3), (2, 7, 64), (1, 16, 1)]
    )
    for j, dtype in enumerate(DTYPE_CODES)
]
