# SPDX-License-Identifier: Apache-2.0
"""`hierarchy_probs` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from prestissimo.ops.hierarchy_probs import reference

from .cases import DTYPES, Buffer, Outcome, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

DTYPE_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}
PITCH = 3  # elements between rows of logits


class Args(ctypes.Structure):
    _fields_ = (
        *((n, ctypes.c_void_p) for n in ("x", "z")),
        *((n, ctypes.c_int64) for n in ("x_stride", "z_stride", "N", "S", "C")),
        *((n, ctypes.c_void_p) for n in ("parents", "out")),
        ("dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("forward", Args),
        *((n, ctypes.c_void_p) for n in ("dout", "dx", "dz", "order", "first")),
    )


@dataclass(frozen=True)
class Case:
    N: int
    S: int
    C: int
    dtype: str = "float32"
    peaks: bool = (
        False  # each row has one logit e^120 above the others; parents that lie outside the classes too
    )

    def __str__(self) -> str:
        return f"{self.N}x{self.S}of{self.C}-{self.dtype}" + "-peaks" * self.peaks


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    dtype, N, S, C = DTYPES[case.dtype], case.N, case.S, case.C
    x, z = (inputs(rng, (N, n), dtype, 0.7, 1.5).clamp(-20, 20) for n in (S, C))
    if case.peaks:
        for logits in (x, z):
            logits.fill_(-60.0)[range(N), rng.integers(0, logits.shape[1], N)] = 60.0
    dout = inputs(rng, (N, S), dtype, 0.3)
    parents = torch.from_numpy((rng.random(S) ** 2 * C).astype(np.int64))
    parents[:2] = torch.tensor([0, C - 1])[:S]
    ordered, order = parents.sort(stable=True)
    first = torch.searchsorted(ordered, torch.arange(C + 1))
    given = (
        torch.where(parents == 0, -1, torch.where(parents == C - 1, C, parents)) if case.peaks else parents
    )

    def rows(values: torch.Tensor) -> int:
        """NaN between the rows."""
        wide = torch.full((N, values.shape[1] + PITCH), float("nan"), dtype=dtype)
        wide[:, :-PITCH] = values
        return Buffer.of(device, as_bytes(wide)).address

    def integers(values: torch.Tensor) -> int:
        return Buffer.of(device, as_bytes(values)).address

    out, dx = (Buffer.empty(device, N * S * dtype.itemsize) for _ in range(2))
    dz = Buffer.empty(device, N * C * dtype.itemsize)
    args = Args(
        *(rows(x), rows(z), S + PITCH, C + PITCH, N, S, C, integers(given), out.address),
        DTYPE_CODES[case.dtype],
    )
    findings = run_plan(device, planner, "hierarchy_probs", args)
    gradient = Buffer.of(device, as_bytes(dout.to(dtype))).address
    backward = BackwardArgs(args, gradient, dx.address, dz.address, integers(order), integers(first))
    findings += run_plan(device, planner, "hierarchy_probs_backward", backward)

    by_autograd = []
    for kind in (torch.float64, dtype):
        leaves = [v.to(kind).requires_grad_() for v in (x, z)]
        y = reference(*leaves, parents)
        by_autograd.append((y.detach(), *torch.autograd.grad(y, leaves, dout.to(kind))))
    results = {
        "out": out.tensor(dtype, (N, S)),
        "dx": dx.tensor(dtype, (N, S)),
        "dz": dz.tensor(dtype, (N, C)),
    }
    wrong = []
    for (name, got), exact, same in zip(results.items(), *by_autograd, strict=True):
        wrong += compare(name, got, exact, same, gradient=name != "out")
    return Outcome(findings, wrong, results)


CASES = [
    Case(2, 300, 11),
    Case(3, 20, 40),
    Case(1, 70, 5, "bfloat16"),
    Case(2, 150, 33, "bfloat16"),
    Case(2, 140, 9, "float16"),
    Case(3, 7, 3, "float16"),
    Case(1, 1, 1),
    Case(4, 130, 2, "bfloat16"),
    *(Case(6, 300, 140, dtype, peaks=True) for dtype in DTYPES),
]
