# SPDX-License-Identifier: Apache-2.0
"""`quantize_rows` as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, inputs, run_plan
from .devices import Device, HostDevice
from .rows import RowsCase, put_special

op = importlib.import_module("prestissimo.ops.quantize_rows")


class Args(ctypes.Structure):
    _fields_ = (
        ("x", RowView),
        ("y", RowView),
        ("scale", RowView),
        ("batch", ctypes.c_int64),
        ("time", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("dtype", ctypes.c_uint8),
    )


def run(case: RowsCase, device: Device, planner: HostDevice) -> Outcome:
    """The reference's bits."""
    dtype = DTYPES[case.dtype]
    B, T, C = case.batch, case.time, case.channels
    x = inputs(np.random.default_rng([B, T, C]), (B, T, C), dtype, mean=0.4).to(dtype)
    if case.special == 0:
        x[-1, -1] = 0
    put_special(x, case.special)
    address = Buffer.of(device, as_bytes(x), misalign=case.misalign * dtype.itemsize).address
    y, scale = Buffer.empty(device, B * T * C), Buffer.empty(device, 4 * B * T)
    args = Args(
        x=RowView(address, T * C, C),
        y=RowView(y.address, T * C, C),
        scale=RowView(scale.address, T, 1),
        batch=B,
        time=T,
        channels=C,
        dtype=tuple(DTYPES).index(case.dtype),
    )
    findings = run_plan(device, planner, "quantize_rows", args)
    got = {"y": y.tensor(torch.int8, (B, T, C)), "scale": scale.tensor(torch.float32, (B, T))}
    want = dict(zip(("y", "scale"), op.reference(x), strict=True))
    wrong = [
        f"{k}: {int((v.nan_to_num(-1) != want[k].nan_to_num(-1)).sum())} of {v.numel()} values differ"
        for k, v in got.items()
        if not torch.equal(v.nan_to_num(-1), want[k].nan_to_num(-1))
    ]
    return Outcome(findings, wrong, got)


def _sweep() -> list[RowsCase]:
    """Rows within and beyond what the threads hold, ragged ends, odd addresses; zeros and what is not finite."""
    cases = []
    for dtype in DTYPES:
        lanes = 16 // DTYPES[dtype].itemsize
        shapes = [(2, 3, lanes), (1, 3, 33 * lanes), (1, 2, 65 * lanes), (1, 1, 1025 * lanes)]
        shapes += [(2, 2, 1), (1, 3, 7), (1, 2, 259), (1, 1, 4611)]
        cases += [RowsCase(*s, dtype) for s in shapes]
        cases += [RowsCase(1, 2, 2 * lanes, dtype, misalign=1)]
        cases += [RowsCase(1, 2, 2 * lanes, dtype, special=v) for v in (0.0, float("inf"), float("nan"))]
    return cases


CASES = _sweep()
