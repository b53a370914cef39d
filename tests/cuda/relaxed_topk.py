# SPDX-License-Identifier: Apache-2.0
"""`relaxed_topk` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

from . import topk_rows
from .cases import DTYPES, Buffer, Outcome
from .devices import Device, HostDevice
from .topk_rows import Case, Rows, TopkRows

op = importlib.import_module("prestissimo.ops.relaxed_topk")


class Args(ctypes.Structure):
    _fields_ = (("rows", TopkRows), ("out", ctypes.c_void_p), ("workspace", ctypes.c_void_p))


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("rows", TopkRows),
        ("dout", ctypes.c_void_p),
        ("dscores", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
    )


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    def forward(r: Rows, out: Buffer) -> tuple[str, ctypes.Structure]:
        return "relaxed_topk", Args(r.structure(), out.address, r.workspace(2))

    def backward(r: Rows, dscores: Buffer) -> tuple[str, ctypes.Structure]:
        dout = r.input(r.dout.to(r.dtype))
        return "relaxed_topk_backward", BackwardArgs(
            r.structure(), dout, dscores.address, r.workspace(r.k + 2)
        )

    return topk_rows.run(op, case, device, planner, forward, backward, op.MOST)


# A warp for short rows and more for long ones; rows of one warp that outgrow its registers (128 scores); leaders,
# clamps and equal scores; k above the length.
_ONSETS = (3, 1, 0, 2, 33, 7, 1, 1, 32, 2, 0)
_EACH = (2, 3, 1, 0, 5, 2, 1, 4, 3, 6, 2)
CASES = [
    Case(_ONSETS, 2, noise=True),
    Case(_ONSETS, _EACH, "bfloat16"),
    Case(_ONSETS, _EACH, "float16", noise=True, temperature=0.5),
    Case(_ONSETS, 3, hard=True, noise=True),
    Case(_ONSETS, _EACH, hard=True, slots=(1, 2, 0, 1, 4, 2, 0, 3, 2, 1, 1)),
    Case((300, *(1,) * 15), 3, spread=3.0),
    Case((300, *(1,) * 15), 2, "bfloat16", noise=True),
    Case((170, *(2,) * 15), 2, "float16", spread=4.0),
    Case((300, *(1,) * 15), 2, "bfloat16", hard=True, selected=5),
    Case((300, *(1,) * 15), 2, "float16", hard=True, noise=True, selected=7),
    Case((140, *(1,) * 15), 2, hard=True, selected=7),
    Case(1, 3, rows=3),
    Case(5, 7, rows=4, spread=60.0),
    Case(31, 4, "float16", rows=2, temperature=2.5),
    Case(64, 5, "bfloat16", rows=2),
    Case(65, 4, rows=3, spread=9.0),
    Case(130, 3, rows=2),
    Case(600, 2, rows=1, noise=True),
    Case(20, 2, rows=2, hard=True, equal=True, selected=3),
    Case(40, 1, rows=2, hard=True, selected=0),
    Case(7, 0, rows=2),
    Case(3, 12, rows=2, spread=200.0, temperature=0.7),
    # equal k-hot values, so that scores decide: all zero; one or two ones among zeros; by one warp and by several
    Case((300, *(1,) * 15), 0, hard=True, noise=True, selected=9),
    Case((300, *(1,) * 15), 0, "bfloat16", hard=True, noise=True, selected=30),
    Case((300, *(1,) * 15), 0, "float16", hard=True, selected=9),
    Case(40, 2, rows=2, hard=True, spread=200.0, selected=5),
    Case(200, 1, "bfloat16", rows=2, hard=True, spread=200.0, selected=7),
    Case(200, 3, "float16", rows=1, hard=True, noise=True, selected=7),
    # scores a few units in the last place apart: many are equal, and their places decide, beyond the registers too
    Case((300, *(1,) * 15), 0, hard=True, spread=3e-7, selected=140),
    Case((300, *(1,) * 15), 0, "bfloat16", hard=True, spread=0.015, selected=140),
    Case((300, *(1,) * 15), 0, "float16", hard=True, spread=0.002, selected=140),
    # leaders in each of the four scores that a thread holds, and behind them
    *(Case((128, 170, 128, 128, *(1,) * 14), 6, dtype, spread=5.0) for dtype in DTYPES),
    *(
        Case((128, 170, 128, 128, *(1,) * 14), 6, dtype, spread=5.0, hard=True, selected=9)
        for dtype in DTYPES
    ),
    Case(200, 3, rows=2, hard=True, noise=True, selected=11),
]
assert {c.dtype for c in CASES} == set(DTYPES)
