# SPDX-License-Identifier: Apache-2.0
"""`squared_norm` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import torch

from . import tensor_lists
from .cases import Buffer, Outcome, as_bytes, compare, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES
from .tensor_lists import Case, Lists, group

op = importlib.import_module("prestissimo.ops.squared_norm")


class Args(ctypes.Structure):
    _fields_ = (
        ("group", group(1)),
        ("partial", ctypes.c_void_p),
        ("blocks_ahead", ctypes.c_int64),
        ("total", ctypes.c_void_p),
        ("dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (("group", group(2)), ("dtotal", ctypes.c_void_p), ("dtype", ctypes.c_uint8))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Option 1: the list goes as two groups, the total with the second."""
    a = Lists(device, case, "squared_norm")
    g = a.values(0.3)
    views = [a.view(t) for t in g]
    total, dtype = Buffer.empty(device, 4), DTYPE_CODES[case.dtype]
    cut = len(views) // 2 if case.option else 0
    parts = [(views[:cut], case.sizes[:cut])] * bool(cut) + [(views[cut:], case.sizes[cut:])]
    partial = Buffer.empty(device, 4 * sum(map(tensor_lists.blocks, case.sizes))).address
    findings: list[str] = []
    ahead = 0
    for i, (own, sizes) in enumerate(parts):
        last = total.address if i == len(parts) - 1 else None
        args = Args(a.group((own,), sizes), partial, ahead, last, dtype)
        findings += run_plan(device, planner, "squared_norm", args)
        ahead += sum(map(tensor_lists.blocks, sizes))
    got = {"total": total.tensor(torch.float32, ())}
    exact, same = (op.reference([t.to(d) for t in g]) for d in (torch.float64, a.dtype))
    wrong = compare("total", got["total"], exact, same)

    dtotal = torch.tensor(0.75)
    outputs = [a.output(n) for n in case.sizes]
    backward = BackwardArgs(
        a.group((views, [address for _, address in outputs]), case.sizes),
        Buffer.of(device, as_bytes(dtotal)).address,
        dtype,
    )
    findings += run_plan(device, planner, "squared_norm_backward", backward)

    def gradients(dtype: torch.dtype) -> torch.Tensor:
        leaves = [t.to(dtype).requires_grad_() for t in g]
        y = op.reference(leaves)
        return torch.cat(torch.autograd.grad(y, leaves, dtotal.to(y.dtype)))

    got["dtensors"] = torch.cat(
        [buffer.tensor(a.dtype, (n,)) for (buffer, _), n in zip(outputs, case.sizes, strict=True)]
    )
    wrong += compare("dtensors", got["dtensors"], gradients(torch.float64), gradients(a.dtype), gradient=True)
    return Outcome(findings, wrong, got)


CASES = tensor_lists.sweep(options=2)
