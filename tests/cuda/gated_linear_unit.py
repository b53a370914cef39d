# SPDX-License-Identifier: Apache-2.0
"""What the cases of `swiglu` and `geglu` for the CUDA lanes share: inputs, Args, float64 reference."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

Reference = Callable[[torch.Tensor], torch.Tensor]


class Args(ctypes.Structure):
    _fields_ = (
        ("x", RowView),
        ("y", RowView),
        ("batch", ctypes.c_int64),
        ("time", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("gate_first", ctypes.c_bool),
        ("gate", ctypes.c_uint8),
        ("dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (("dy", RowView), ("x", RowView), ("dx", RowView), *Args._fields_[2:])


@dataclass(frozen=True)
class Case:
    batch: int
    time: int
    width: int
    dtype: str = "float32"
    gate: str = "silu"
    gate_first: bool = False
    misalign: int = 0  # elements that x lies off its alignment
    pitch: int = 0  # elements between rows of x beyond their own

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.time}x{self.width}", self.dtype, self.gate]
        words += ["gate-first"] * self.gate_first + ["misaligned"] * bool(self.misalign)
        return "-".join(words + ["pitched"] * bool(self.pitch))


def run(case: Case, device: Device, planner: HostDevice, op: str, reference: Reference) -> Outcome:
    """Forward, then backward; gradients by autograd through the reference."""
    dtype = DTYPES[case.dtype]
    rng = np.random.default_rng([case.batch, case.time, case.width])
    B, T, F = case.batch, case.time, case.width
    x = inputs(rng, (B, T, 2 * F), dtype, mean=0.5, spread=1.5)
    dy = inputs(rng, (B, T, F), dtype, mean=0.3)

    def view(values: torch.Tensor, pitch: int = 0, misalign: int = 0) -> RowView:
        wide = torch.full((B, T, values.shape[-1] + pitch), float("nan"), dtype=dtype)
        wide[..., : values.shape[-1]] = values
        buffer = Buffer.of(device, as_bytes(wide), misalign=misalign * dtype.itemsize)
        return RowView(buffer.address, T * wide.shape[-1], wide.shape[-1])

    shared = {
        "batch": B,
        "time": T,
        "width": F,
        "gate_first": case.gate_first,
        "gate": ("silu", "gelu", "gelu_tanh").index(case.gate),
        "dtype": tuple(DTYPES).index(case.dtype),
    }
    y = Buffer.empty(device, B * T * F * dtype.itemsize)
    dx = Buffer.empty(device, 2 * y.size)
    there = view(x, case.pitch, case.misalign)
    findings = run_plan(device, planner, op, Args(x=there, y=RowView(y.address, T * F, F), **shared))
    backward = BackwardArgs(dy=view(dy), x=there, dx=RowView(dx.address, 2 * T * F, 2 * F), **shared)
    findings += run_plan(device, planner, f"{op}_backward", backward)

    def exact(kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.to(kind).requires_grad_()
        result = reference(leaf)
        return result.detach(), torch.autograd.grad(result, leaf, dy.to(kind))[0]

    got = {"y": y.tensor(dtype, (B, T, F)), "dx": dx.tensor(dtype, (B, T, 2 * F))}
    (wide_y, wide_dx), (same_y, same_dx) = exact(torch.float64), exact(dtype)
    wrong = compare("y", got["y"], wide_y, same_y)
    wrong += compare("dx", got["dx"], wide_dx, same_dx, gradient=True)
    return Outcome(findings, wrong, got)


def sweep(gates: tuple[str, ...]) -> list[Case]:
    """Less and more than a warp and a block of vectors, ragged ends, both orders, odd addresses and pitches."""
    cases = []
    for g, gate in enumerate(gates):
        for d, dtype in enumerate(DTYPES):
            lanes = 16 // DTYPES[dtype].itemsize
            for n, vectors in enumerate((1, 31, 33, 257, 32)):  # 32: a block's share, whole
                k = g + d + n
                cases.append(
                    Case(1 + k % 2, (3, 1, 2)[k % 3], lanes * vectors, dtype, gate, gate_first=k % 2 == 1)
                )
            cases += [
                Case(2, 2, 1, dtype, gate),
                Case(1, 2, 7, dtype, gate, gate_first=True),
                Case(1, 1, 259, dtype, gate),
                Case(2, 2, 2 * lanes, dtype, gate, misalign=1),
                Case(2, 2, 32, dtype, gate, misalign=1),
                Case(2, 3, lanes, dtype, gate, pitch=lanes),
                Case(1, 3, lanes, dtype, gate, pitch=1),
            ]
    return cases
