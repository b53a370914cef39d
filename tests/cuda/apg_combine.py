# SPDX-License-Identifier: Apache-2.0
"""`apg_combine` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
import math

import torch

from . import sample_sums
from .cases import Outcome, compare, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES, Latents, Samples
from .sample_sums import Case

op = importlib.import_module("prestissimo.ops.apg_combine")


class Weights(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_float) for name in ("guidance", "eta", "threshold", "momentum"))


_SIZES = (
    ("partial", ctypes.c_void_p),
    ("weights", Weights),
    ("batch", ctypes.c_int64),
    ("size", ctypes.c_int64),
    ("dtype", ctypes.c_uint8),
)


class Args(ctypes.Structure):
    _fields_ = (
        *((name, Samples) for name in ("conditional", "unconditional", "average", "y", "next")),
        *_SIZES,
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        *((name, Samples) for name in ("dy", "dnext", "conditional", "unconditional", "average")),
        *((name, Samples) for name in ("dconditional", "dunconditional", "daverage")),
        *_SIZES,
    )


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Option 0: plain, the difference not wanted; 1: shortened, with the average; 2: limited but short enough."""
    a = Latents(device, case.dtype, (case.batch, case.size), f"apg_combine {case}")
    c = a.values(-0.2)
    u = (c + a.values(0.3, 0.5)).to(a.dtype).double()
    average = a.values(0.2, 0.4) if case.option == 1 else None
    dy, dnext = a.values(0.2), a.values(0.1) if case.option else None
    momentum = -0.75 if case.option == 1 else 0.0
    threshold = (0.0, 0.2 * math.sqrt(case.size), 1e4)[case.option]
    numbers = (4.0, 0.3, threshold, momentum)
    weights = Weights(3.0, -0.7, threshold, momentum)
    view = lambda v: a.view(v, case.misalign, case.sliced)  # noqa: E731
    inputs = [view(v) for v in (c, u, average)]
    sizes = (weights, case.batch, case.size, DTYPE_CODES[case.dtype])

    outputs = {"y": a.output()} | ({"next": a.output()} if case.option else {})
    absent = (None, Samples())
    args = Args(
        *inputs, outputs["y"][1], outputs.get("next", absent)[1], sample_sums.partial(device, case, 3), *sizes
    )
    findings = run_plan(device, planner, "apg_combine", args)
    got = {name: a.result(buffer) for name, (buffer, _) in outputs.items()}

    def leaves(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        values = {"dconditional": c, "dunconditional": u, "daverage": average}
        return {name: v.to(dtype).requires_grad_() for name, v in values.items() if v is not None}

    def reference(dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        own = leaves(dtype)
        y, d = op.reference(own["dconditional"], own["dunconditional"], own.get("daverage"), *numbers)
        results, dys = ([y], [dy.to(dtype)]) if dnext is None else ([y, d], [dy.to(dtype), dnext.to(dtype)])
        grads = torch.autograd.grad(results, list(own.values()), dys)
        return {"y": y.detach(), "next": d.detach()}, dict(zip(own, grads, strict=True))

    exact, same = reference(torch.float64), reference(a.dtype)
    wrong = [w for name, g in got.items() for w in compare(name, g, exact[0][name], same[0][name])]

    grads = {name: a.output() for name in exact[1]}
    backward = BackwardArgs(
        view(dy),
        view(dnext),
        *inputs,
        *(grads.get(name, absent)[1] for name in ("dconditional", "dunconditional", "daverage")),
        sample_sums.partial(device, case, 5),
        *sizes,
    )
    findings += run_plan(device, planner, "apg_combine_backward", backward)
    for name, (buffer, _) in grads.items():
        got[name] = a.result(buffer)
        wrong += compare(name, got[name], exact[1][name], same[1][name], gradient=True)
    return Outcome(findings, wrong, got)


# one element leaves nothing across itself
CASES = [c for c in sample_sums.sweep(options=3) if c.size > 1]
