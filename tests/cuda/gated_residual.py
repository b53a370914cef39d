# SPDX-License-Identifier: Apache-2.0
"""`gated_residual` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

TIME_BLOCK = 64  # kTimeBlock of csrc/ops/rows.h
STREAMS = (*((d, d) for d in DTYPES), ("float32", "bfloat16"), ("float32", "float16"))
op = importlib.import_module("prestissimo.ops.gated_residual")

_COMMON = (
    ("batch", ctypes.c_int64),
    ("time", ctypes.c_int64),
    ("channels", ctypes.c_int64),
    ("form", ctypes.c_uint8),
    ("dtype", ctypes.c_uint8),
    ("branch_dtype", ctypes.c_uint8),
)


class Args(ctypes.Structure):
    _fields_ = (*((name, RowView) for name in ("x", "branch", "gate", "y")), *_COMMON)


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        *((name, RowView) for name in ("dy", "branch", "gate", "dbranch", "dgate")),
        ("partial", ctypes.c_void_p),
        *_COMMON,
    )


@dataclass(frozen=True)
class Case:
    batch: int
    time: int
    channels: int
    dtype: str = "float32"
    branch_dtype: str = "float32"
    form: str = "plain"
    misalign: int = 0  # elements that the branch lies off its alignment
    pitch: int = 0  # elements between the rows of x beyond their own
    dbranch: bool = True
    dgate: bool = True

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.time}x{self.channels}", self.dtype, self.branch_dtype, self.form]
        words += ["misaligned"] * bool(self.misalign) + ["pitched"] * bool(self.pitch)
        return "-".join(words + ["no-dbranch"] * (not self.dbranch) + ["no-dgate"] * (not self.dgate))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Forward, then backward; gradients by autograd through the reference."""
    stream, narrow = DTYPES[case.dtype], DTYPES[case.branch_dtype]
    rng = np.random.default_rng([case.batch, case.time, case.channels])
    B, T, C = case.batch, case.time, case.channels
    x, dy = inputs(rng, (B, T, C), stream, mean=0.5), inputs(rng, (B, T, C), stream, mean=0.3)
    branch, gate = inputs(rng, (B, T, C), narrow, mean=-0.4), inputs(rng, (B, C), stream, mean=0.4)

    def view(values: torch.Tensor, dtype: torch.dtype, pitch: int = 0, misalign: int = 0) -> RowView:
        wide = torch.full((*values.shape[:-1], C + pitch), float("nan"), dtype=dtype)
        wide[..., :C] = values
        address = Buffer.of(device, as_bytes(wide), misalign=misalign * dtype.itemsize).address
        return RowView(address, wide.stride(0), wide.stride(1) if wide.dim() == 3 else 0)

    def output(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Buffer, RowView]:
        buffer = Buffer.empty(device, int(np.prod(shape)) * dtype.itemsize)
        return buffer, RowView(buffer.address, int(np.prod(shape[1:])), C if len(shape) == 3 else 0)

    shared = {
        "branch": view(branch, narrow, misalign=case.misalign),
        "gate": view(gate, stream),
        "batch": B,
        "time": T,
        "channels": C,
        "form": ("plain", "sigmoid").index(case.form),
        "dtype": tuple(DTYPES).index(case.dtype),
        "branch_dtype": tuple(DTYPES).index(case.branch_dtype),
    }
    y, y_view = output((B, T, C), stream)
    findings = run_plan(
        device, planner, "gated_residual", Args(x=view(x, stream, case.pitch), y=y_view, **shared)
    )
    dbranch, dbranch_view = output((B, T, C), narrow)
    dgate, dgate_view = output((B, C), stream)
    blocks = -(-T // TIME_BLOCK)
    backward = BackwardArgs(
        dy=view(dy, stream),
        dbranch=dbranch_view if case.dbranch else RowView(),
        dgate=dgate_view if case.dgate else RowView(),
        partial=Buffer.empty(device, 4 * B * blocks * C).address,
        **shared,
    )
    findings += run_plan(device, planner, "gated_residual_backward", backward)

    def reference(wide: bool) -> dict[str, torch.Tensor]:
        leaves = [
            v.to(torch.float64 if wide else d).requires_grad_()
            for v, d in ((x, stream), (branch, narrow), (gate, stream))
        ]
        result = op.reference(*leaves, case.form)
        grads = torch.autograd.grad(result, leaves[1:], dy.to(result.dtype))
        return {"y": result.detach(), "dbranch": grads[0], "dgate": grads[1]}

    got = {"y": y.tensor(stream, (B, T, C))}
    got |= {"dbranch": dbranch.tensor(narrow, (B, T, C))} if case.dbranch else {}
    got |= {"dgate": dgate.tensor(stream, (B, C))} if case.dgate else {}
    exact, same = reference(True), reference(False)
    wrong = [w for k, v in got.items() for w in compare(k, v, exact[k], same[k], gradient=k != "y")]
    return Outcome(findings, wrong, got)


def _sweep() -> list[Case]:
    """Every pair of types; ragged blocks of time and of channels, several samples, odd addresses and pitches."""
    cases = []
    for d, (dtype, branch) in enumerate(STREAMS):
        lanes = 16 // DTYPES[branch].itemsize
        form = lambda k, d=d: ("plain", "sigmoid")[(k + d) % 2]  # noqa: E731
        shapes = [
            (2, 65, lanes),
            (1, 3, 33 * lanes),
            (1, 2, 257 * lanes),
            (2, 130, 2 * lanes),
            (1, 64, 32 * lanes),
        ]
        cases += [Case(*s, dtype, branch, form(k)) for k, s in enumerate(shapes)]
        cases += [
            Case(2, 2, 1, dtype, branch, form(0)),
            Case(1, 66, 7, dtype, branch, form(1)),
            Case(1, 2, 259, dtype, branch, form(0)),
            Case(1, 2100, 1, dtype, branch, form(1)),  # rows of `partial` enough for the unrolled sum
            Case(2, 2, 2 * lanes, dtype, branch, form(1), misalign=1),
            Case(2, 3, lanes, dtype, branch, form(0), pitch=lanes),
            Case(1, 3, lanes, dtype, branch, form(1), pitch=1),
            Case(1, 9, lanes, dtype, branch, form(0), dbranch=False),
            Case(1, 9, lanes, dtype, branch, form(1), dgate=False),
        ]
    return cases


CASES = _sweep()
