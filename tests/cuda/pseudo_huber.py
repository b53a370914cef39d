# SPDX-License-Identifier: Apache-2.0
"""`pseudo_huber` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import torch

from . import sample_sums
from .cases import Buffer, Outcome, compare, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES, Latents, Samples, gradients
from .sample_sums import Case

op = importlib.import_module("prestissimo.ops.pseudo_huber")
_SIZES = (
    ("batch", ctypes.c_int64),
    ("size", ctypes.c_int64),
    ("c", ctypes.c_double),
    ("dtype", ctypes.c_uint8),
)


class Args(ctypes.Structure):
    _fields_ = (
        ("x", Samples),
        ("y", Samples),
        ("loss", ctypes.c_void_p),
        ("partial", ctypes.c_void_p),
        *_SIZES,
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("x", Samples),
        ("y", Samples),
        ("dx", Samples),
        ("dy", Samples),
        ("dloss", ctypes.c_void_p),
        ("loss", ctypes.c_void_p),
        *_SIZES,
    )


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Option 1: only dx is wanted; 2: only dy."""
    a = Latents(device, case.dtype, (case.batch, case.size), f"pseudo_huber {case}")
    x = a.values(0.3)
    y = (x + a.values(0.1, 0.4)).to(a.dtype).double()
    views = [a.view(v, case.misalign, case.sliced) for v in (x, y)]
    c, sizes = 0.7, (case.batch, case.size, 0.7, DTYPE_CODES[case.dtype])
    loss = Buffer.empty(device, 4 * case.batch)
    args = Args(*views, loss.address, sample_sums.partial(device, case, 1), *sizes)
    findings = run_plan(device, planner, "pseudo_huber", args)
    got = {"loss": loss.tensor(torch.float32, (case.batch,))}
    exact, same = (op.reference(x.to(d), y.to(d), c) for d in (torch.float64, a.dtype))
    wrong = compare("loss", got["loss"], exact, same)

    dloss = torch.from_numpy(a.rng.standard_normal(case.batch)).float()
    outputs = {name: a.output() for name, other in (("dx", 2), ("dy", 1)) if case.option != other}
    absent = (None, Samples())
    backward = BackwardArgs(
        *views,
        *(outputs.get(name, absent)[1] for name in ("dx", "dy")),
        a.vector(dloss),
        loss.address,
        *sizes,
    )
    findings += run_plan(device, planner, "pseudo_huber_backward", backward)

    def of(dtype: torch.dtype, wide: torch.dtype) -> dict[str, torch.Tensor]:
        own = gradients(lambda x, y: op.reference(x, y, c).to(wide), [x, y], dloss.to(wide), dtype)
        return dict(zip(("dx", "dy"), own, strict=True))

    exact_gradients = of(torch.float64, torch.float64)
    leaves = [v.to(a.dtype).requires_grad_() for v in (x, y)]
    same_gradients = dict(
        zip(("dx", "dy"), torch.autograd.grad(op.reference(*leaves, c), leaves, dloss), strict=True)
    )
    for name, (buffer, _) in outputs.items():
        got[name] = a.result(buffer)
        wrong += compare(name, got[name], exact_gradients[name], same_gradients[name], gradient=True)
    return Outcome(findings, wrong, got)


CASES = sample_sums.sweep(options=3)
