# SPDX-License-Identifier: Apache-2.0
"""`hidden_variance` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, inputs, run_plan
from .devices import Device, HostDevice
from .rows import NOT_FINITE, RowsCase, compare_special, put_special

op = importlib.import_module("prestissimo.ops.hidden_variance")
_SIZES = tuple((name, ctypes.c_int64) for name in ("batch", "time", "channels"))


class Args(ctypes.Structure):
    _fields_ = (
        ("x", RowView),
        *((name, ctypes.c_void_p) for name in ("variance", "mean", "partial")),
        *_SIZES,
        ("dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("x", RowView),
        ("dx", RowView),
        *((name, ctypes.c_void_p) for name in ("dvariance", "mean")),
        *_SIZES,
        ("dtype", ctypes.c_uint8),
    )


def run(case: RowsCase, device: Device, planner: HostDevice) -> Outcome:
    """Forward, then backward; gradients by autograd through the reference."""
    dtype, (B, T, C) = DTYPES[case.dtype], (case.batch, case.time, case.channels)
    rng = np.random.default_rng([B, T, C])
    x = inputs(rng, (B, T, C), dtype, mean=0.6)
    put_special(x, case.special)
    dvariance = inputs(rng, (B,), torch.float32, mean=0.7)
    address = Buffer.of(device, as_bytes(x.to(dtype)), misalign=case.misalign * dtype.itemsize).address
    variance, mean = Buffer.empty(device, 4 * B), Buffer.empty(device, 4 * B)
    dx = Buffer.empty(device, B * T * C * dtype.itemsize)
    shared = {"batch": B, "time": T, "channels": C, "dtype": tuple(DTYPES).index(case.dtype)}
    there = RowView(address, T * C, C)
    partial = Buffer.empty(device, 8 * B * T).address
    forward = Args(there, variance.address, mean.address, partial, **shared)
    findings = run_plan(device, planner, "hidden_variance", forward)
    given = Buffer.of(device, as_bytes(dvariance.float())).address
    backward = BackwardArgs(there, RowView(dx.address, T * C, C), given, mean.address, **shared)
    findings += run_plan(device, planner, "hidden_variance_backward", backward)

    def reference(kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.to(kind).requires_grad_()
        result = op.reference(leaf)
        return result.detach(), torch.autograd.grad(result, leaf, dvariance.to(result.dtype))[0]

    got = {"variance": variance.tensor(torch.float32, (B,)), "dx": dx.tensor(dtype, (B, T, C))}
    (wide, wide_dx), (same, same_dx) = reference(torch.float64), reference(dtype)
    wrong = compare_special("variance", got["variance"], wide, same)
    wrong += compare_special("dx", got["dx"], wide_dx, same_dx, gradient=True)
    return Outcome(findings, wrong, got)


def _sweep() -> list[RowsCase]:
    """Rows within and beyond what the threads hold, more rows than threads of a sample, ragged ends."""
    cases = []
    for dtype in DTYPES:
        lanes = 16 // DTYPES[dtype].itemsize
        shapes = [(2, 3, lanes), (1, 3, 33 * lanes), (2, 2, 65 * lanes), (1, 1, 1025 * lanes)]
        shapes += [(2, 2, 3), (1, 3, 7), (1, 2, 259), (1, 1, 2051)]
        cases += [RowsCase(*s, dtype) for s in shapes] + [RowsCase(1, 2, 2 * lanes, dtype, misalign=1)]
        cases += [RowsCase(2, 2, lanes, dtype, special=v) for v in NOT_FINITE]
    return [*cases, RowsCase(1, 258, 2)]


CASES = _sweep()
