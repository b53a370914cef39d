# SPDX-License-Identifier: Apache-2.0
"""What every op's CUDA cases share: inputs that leave nothing hidden, buffers, and the tolerance law."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np
import torch

from prestissimo.ops.tolerance import error_bound

from .devices import Device, HostDevice

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def inputs(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    mean: float = 0.0,
    spread: float = 1.0,
) -> torch.Tensor:
    """Normal numbers about a mean that is not zero (a wrong sign shows), every row on a level of its own,
    with outliers; values of `dtype`, as float64."""
    values = rng.standard_normal(shape) * spread + mean
    if len(shape) == 3:
        values += rng.standard_normal((*shape[:2], 1)) * mean
    flat = values.reshape(-1)
    if flat.size > 16:
        flat[rng.integers(0, flat.size, flat.size // 64 + 1)] *= 12
    return torch.from_numpy(values).to(dtype).double()


def as_bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().view(_BITS.get(values.dtype, values.dtype)).numpy().tobytes()


class RowView(ctypes.Structure):
    """RowView and RowOutput of csrc/ops/rows.h."""

    _fields_ = (("data", ctypes.c_void_p), ("batch_stride", ctypes.c_int64), ("time_stride", ctypes.c_int64))


@dataclass
class Buffer:
    device: Device
    address: int
    size: int

    @staticmethod
    def of(device: Device, contents: bytes, misalign: int = 0) -> Buffer:
        return Buffer(device, device.allocate(len(contents), contents, misalign), len(contents))

    @staticmethod
    def empty(device: Device, size: int) -> Buffer:
        return Buffer(device, device.allocate(size, None), size)

    def tensor(self, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        raw = np.frombuffer(bytearray(self.device.read(self.address, self.size)), np.uint8)
        return torch.from_numpy(raw).view(dtype).reshape(shape)


@dataclass
class Outcome:
    """What the checkers found, which results are off, and the results."""

    findings: list[str]
    wrong: list[str]
    results: dict[str, torch.Tensor] = field(default_factory=dict)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.findings + other.findings, self.wrong + other.wrong, self.results | other.results)

    @property
    def clean(self) -> bool:
        return not self.findings and not self.wrong

    def __str__(self) -> str:
        return "\n".join(self.findings + self.wrong) or "clean"


def run_plan(device: Device, planner: HostDevice, op: str, args: ctypes.Structure) -> list[str]:
    """Launch what the op's plan says for these Args; findings of all launches."""
    plan = planner.plan(op, bytes(args))
    findings = []
    for kernel, grid, block, shared in plan.launches:
        findings += device.launch(kernel, (grid, 1, 1), (block, 1, 1), plan.parameters, shared)
    return findings


def compare(
    name: str, got: torch.Tensor, exact: torch.Tensor, same_dtype: torch.Tensor, gradient: bool = False
) -> list[str]:
    """Empty where `got` lies within the tolerance of every op (prestissimo.ops.tolerance)."""
    if exact.numel() == 0:
        return []
    error = (got.double() - exact).abs()
    if not torch.isfinite(error).all():
        return [f"{name}: {int((~torch.isfinite(error)).sum())} of {error.numel()} values are not finite"]
    allowed = error_bound(same_dtype, exact, gradient=gradient)
    worst = error.max().item()
    return [] if worst <= allowed else [f"{name}: error {worst:.3e} exceeds {allowed:.3e}"]
