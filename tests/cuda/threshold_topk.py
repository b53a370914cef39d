# SPDX-License-Identifier: Apache-2.0
"""The top-k ops with a threshold, and their backward, as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from . import topk_rows
from .cases import Buffer, Outcome
from .devices import Device, HostDevice
from .topk_rows import DTYPE_CODES, Rows, TopkRows


class Args(ctypes.Structure):
    _fields_ = (
        ("rows", TopkRows),
        ("out", ctypes.c_void_p),
        ("thresholds", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("exponent", ctypes.c_float),
        ("link", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("rows", TopkRows),
        ("dout", ctypes.c_void_p),
        ("thresholds", ctypes.c_void_p),
        ("dscores", ctypes.c_void_p),
        ("exponent", ctypes.c_float),
        ("link", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case(topk_rows.Case):
    """p 0: the sigmoid."""

    p: float = 0.0

    def __str__(self) -> str:
        return f"{super().__str__()}-{f'p{self.p:.2f}' if self.p else 'sigmoid'}"


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    module: Any = importlib.import_module(f"prestissimo.ops.{'sparse' if case.p else 'sigmoid'}_topk")
    p = (case.p,) if case.p else ()
    link = (1 / (case.p - 1) if case.p else 1.0, 1 if case.p else 0)
    thresholds: list[int] = []

    def forward(r: Rows, out: Buffer) -> tuple[str, ctypes.Structure]:
        thresholds.append(Buffer.empty(device, 8 * r.count).address)
        return "threshold_topk", Args(r.structure(), out.address, thresholds[0], r.workspace(2), *link)

    def backward(r: Rows, dscores: Buffer) -> tuple[str, ctypes.Structure]:
        dout = r.input(r.dout.to(r.dtype))
        return "threshold_topk_backward", BackwardArgs(
            r.structure(), dout, thresholds[0], dscores.address, *link
        )

    def reference(*arguments: Any) -> torch.Tensor:
        return module.reference(*arguments, *p)[0]

    return topk_rows.run(
        SimpleNamespace(reference=reference), case, device, planner, forward, backward, module.MOST
    )


_ONSETS = (3, 1, 0, 2, 33, 7, 1, 1, 32, 2, 0)
_EACH = (2, 3, 1, 0, 5, 2, 1, 4, 3, 6, 2)
_LONG = (300, *(1,) * 15)
CASES = [
    Case(_ONSETS, _EACH, noise=True),
    Case(_ONSETS, _EACH, "bfloat16", p=2.0),
    Case(_ONSETS, 2, "float16", p=4 / 3, temperature=0.5),
    Case(_ONSETS, _EACH, hard=True, slots=(1, 2, 0, 1, 4, 2, 0, 3, 2, 1, 1)),
    Case(_ONSETS, 2, hard=True, selected=1, p=2.0, noise=True),
    Case(_LONG, 9, temperature=0.3, noise=True),
    Case(_LONG, 100, "bfloat16", noise=True),
    Case(_LONG, 31, "float16", temperature=2.0, noise=True),
    Case(_LONG, 9, p=4 / 3, noise=True),
    Case(_LONG, 90, p=1.6, noise=True),
    Case(_LONG, 90, "bfloat16", p=1.5, noise=True),
    Case(_LONG, 60, "float16", p=1.8, temperature=0.5, noise=True),
    Case(_LONG, 5, "float16", hard=True, selected=7, noise=True),
    Case(_LONG, 5, "bfloat16", hard=True, selected=7, p=2.0, noise=True),
    Case(_LONG, 5, "bfloat16", hard=True, selected=7, noise=True),
    Case(_LONG, 5, hard=True, selected=7, noise=True),
    Case(_LONG, 5, hard=True, selected=7, p=2.0, noise=True),
    Case(_LONG, 60, "float16", hard=True, selected=50, p=1.5, noise=True),
    # all but one of scores that reach further down than up: the bracket must begin at the lowest of all warps
    *(Case(130, 129, dtype, rows=4, spread=30.0, p=p) for dtype in DTYPE_CODES for p in (0.0, 1.5)),
    Case(1, 1, rows=3),
    Case(5, 4, rows=3, spread=60.0),
    Case(65, 13, rows=2, spread=30.0, p=2.0),
    Case(130, 3, rows=2, p=1.1),
    Case(600, 60, noise=True),
    Case(600, 60, p=2.0, temperature=0.2),
    Case(20, 2, rows=2, equal=True),
    Case(7, 0, rows=2),
    Case(7, 7, rows=2, p=2.0),
]
