# SPDX-License-Identifier: Apache-2.0
"""`snake` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

TIME_BLOCK, COLUMN_BLOCK = 64, 4096  # kTimeBlock of csrc/ops/rows.h, kColumnBlock of csrc/ops/snake.h
op = importlib.import_module("prestissimo.ops.snake")


class Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "rows", "columns")),
        ("channel_is_row", ctypes.c_bool),
        ("log_scale", ctypes.c_bool),
        ("dtype", ctypes.c_uint8),
    )


class Args(ctypes.Structure):
    _fields_ = (
        ("x", RowView),
        ("alpha", ctypes.c_void_p),
        ("beta", ctypes.c_void_p),
        ("y", RowView),
        ("shape", Shape),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("dy", RowView),
        ("x", RowView),
        ("alpha", ctypes.c_void_p),
        ("beta", ctypes.c_void_p),
        ("dx", RowView),
        ("dalpha", ctypes.c_void_p),
        ("dbeta", ctypes.c_void_p),
        ("partial", ctypes.c_void_p),
        ("shape", Shape),
    )


@dataclass(frozen=True)
class Case:
    """`last`: channels last in memory; `wanted`: dx, and the sums."""

    batch: int
    channels: int
    time: int
    dtype: str = "float32"
    last: bool = False
    log: bool = True
    pitch: int = 0  # elements between the rows of x beyond their own
    wanted: tuple[bool, bool] = (True, True)

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.channels}x{self.time}", self.dtype, "last" if self.last else "first"]
        words += ["log"] * self.log + ["pitched"] * bool(self.pitch) + ["no-dx"] * (not self.wanted[0])
        return "-".join(words + ["no-sums"] * (not self.wanted[1]))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Forward, then backward; gradients by autograd through the reference."""
    dtype = DTYPES[case.dtype]
    rng = np.random.default_rng([case.batch, case.channels, case.time, case.last])
    B, C, T = case.batch, case.channels, case.time
    rows, columns = (T, C) if case.last else (C, T)
    x, dy = (inputs(rng, (B, rows, columns), dtype, mean=m) for m in (0.5, 0.3))
    alpha, beta = (
        (inputs(rng, (C,), dtype, spread=0.4).clamp(-1, 1) * 2.5**case.log + 1.5 * (not case.log))
        .to(dtype)
        .double()
        for _ in range(2)
    )

    def view(values: torch.Tensor, pitch: int = 0) -> RowView:
        wide = torch.full((B, rows, columns + pitch), float("nan"), dtype=dtype)
        wide[..., :columns] = values
        return RowView(Buffer.of(device, as_bytes(wide)).address, wide.stride(0), wide.stride(1))

    def output() -> tuple[Buffer, RowView]:
        buffer = Buffer.empty(device, B * rows * columns * dtype.itemsize)
        return buffer, RowView(buffer.address, rows * columns, columns)

    shape = Shape(B, rows, columns, not case.last, case.log, tuple(DTYPES).index(case.dtype))
    constants = [Buffer.of(device, as_bytes(v.to(dtype))).address for v in (alpha, beta)]
    y, y_view = output()
    findings = run_plan(device, planner, "snake", Args(view(x, case.pitch), *constants, y_view, shape))
    dx, dx_view = output()
    dalpha, dbeta = (Buffer.empty(device, C * dtype.itemsize) for _ in range(2))
    blocks = -(-T // (TIME_BLOCK if case.last else COLUMN_BLOCK))
    partial = Buffer.empty(device, 4 * 2 * B * blocks * C)
    sums = [b.address if case.wanted[1] else None for b in (dalpha, dbeta, partial)]
    wanted_dx = dx_view if case.wanted[0] else RowView()
    args = BackwardArgs(view(dy), view(x, case.pitch), *constants, wanted_dx, *sums, shape)
    findings += run_plan(device, planner, "snake_backward", args)

    def by_channel(v: torch.Tensor) -> torch.Tensor:
        return v.transpose(1, 2) if case.last else v

    def reference(wide: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = [v.to(wide).requires_grad_() for v in (by_channel(x), alpha, beta)]
        result = op.reference(*leaves, case.log)
        grads = torch.autograd.grad(result, leaves, by_channel(dy).to(wide))
        names = ("y", "dx", "dalpha", "dbeta")
        values = (by_channel(result.detach()), by_channel(grads[0]), *grads[1:])
        return dict(zip(names, values, strict=True))

    got = {"y": y.tensor(dtype, (B, rows, columns))}
    got |= {"dx": dx.tensor(dtype, (B, rows, columns))} if case.wanted[0] else {}
    if case.wanted[1]:
        got |= {"dalpha": dalpha.tensor(dtype, (C,)), "dbeta": dbeta.tensor(dtype, (C,))}
    exact, same = reference(torch.float64), reference(dtype)
    wrong = [w for k, v in got.items() for w in compare(k, v, exact[k], same[k], gradient=k != "y")]
    return Outcome(findings, wrong, got)


def _sweep() -> list[Case]:
    """Every type, width and layout; ragged blocks of rows and of columns."""
    cases = []
    for d, dtype in enumerate(DTYPES):
        lanes = 16 // DTYPES[dtype].itemsize
        cases += [
            Case(5, lanes, 65, dtype, last=True),
            Case(1, 33 * lanes, 3, dtype, last=True, log=False, pitch=lanes),
            Case(1, 7, 70, dtype, last=True),
            Case(1, 259, 2, dtype, last=True, log=False),
            Case(1, 2, 4096 + 3 * lanes, dtype),
            Case(2, 3, 5 * lanes, dtype, log=False, pitch=lanes),
            Case(1, 2, 4099, dtype, log=False),
            Case(2, 5, 37, dtype, pitch=1),
            Case(1, lanes, 9, dtype, last=bool(d % 2), wanted=(True, False)),
            Case(1, lanes, 9, dtype, last=not d % 2, wanted=(False, True)),
        ]
    return cases


CASES = _sweep()
