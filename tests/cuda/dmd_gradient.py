# SPDX-License-Identifier: Apache-2.0
"""`dmd_gradient` as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import torch

from . import sample_sums
from .cases import Outcome, compare, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES, Latents, Samples
from .sample_sums import Case

op = importlib.import_module("prestissimo.ops.dmd_gradient")


class Args(ctypes.Structure):
    _fields_ = (
        ("x", Samples),
        ("fake", Samples),
        ("real", Samples),
        ("y", Samples),
        ("partial", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("eps", ctypes.c_float),
        ("dtype", ctypes.c_uint8),
    )


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Option 1: no eps, and the first sample at its teacher's estimate: infinities, and a NaN where fake is it too."""
    a = Latents(device, case.dtype, (case.batch, case.size), f"dmd_gradient {case}")
    x, real = a.values(0.3), a.values(-0.4)
    eps = 0.0 if case.option else 0.01
    if case.option:
        x[0] = real[0]
    fake = (real + a.values(0.2, 0.3)).to(a.dtype).double()
    fake[0, -1] = real[0, -1]
    views = [a.view(v, case.misalign, case.sliced) for v in (x, fake, real)]
    buffer, y = a.output()
    partial = sample_sums.partial(device, case, 1)
    args = Args(*views, y, partial, case.batch, case.size, eps, DTYPE_CODES[case.dtype])
    findings = run_plan(device, planner, "dmd_gradient", args)
    exact, same = (op.reference(x.to(d), fake.to(d), real.to(d), eps) for d in (torch.float64, a.dtype))
    got = a.result(buffer)
    huge = torch.finfo(a.dtype).max
    if (
        case.option
    ):  # the largest numbers of the dtype stand where there was an infinity, and say nothing of errors
        infinite = exact.abs() == torch.finfo(torch.float64).max
        expected = exact.sign() * huge
        if not torch.equal(got[infinite].double(), expected[infinite]):
            return Outcome(findings, ["y: infinities are not the largest numbers"], {"y": got})
        exact, same, tidy = (torch.where(infinite, 0, v) for v in (exact, same, got))
        return Outcome(findings, compare("y", tidy, exact, same), {"y": got})
    return Outcome(findings, compare("y", got, exact, same), {"y": got})


CASES = sample_sums.sweep(options=2)
