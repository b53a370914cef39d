# SPDX-License-Identifier: Apache-2.0
"""`graft_update` as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import torch

from . import tensor_lists
from .cases import Buffer, Outcome, as_bytes, compare, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES
from .tensor_lists import Case, Lists, group

op = importlib.import_module("prestissimo.ops.graft_update")


class Args(ctypes.Structure):
    _fields_ = (
        ("group", group(3)),
        ("magnitude", ctypes.c_void_p),
        ("direction", ctypes.c_void_p),
        ("rate", ctypes.c_double),
        ("dtype", ctypes.c_uint8),
        ("large", ctypes.c_bool),
    )


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Option 1: no direction, and so no step."""
    a = Lists(device, case, "graft_update")
    p, g = a.values(0.3), a.values(-0.2)
    if case.option:
        g = [torch.zeros_like(t) for t in g]
    norm = torch.cat(g).square().sum().float()
    # steps of about half of g: where one is wrong it shows above a bfloat16's rounding
    magnitude = 2.5 * norm + 0.5 * case.option
    outputs = [a.output(n) for n in case.sizes]
    lists = ([a.view(t) for t in p], [a.view(t) for t in g], [address for _, address in outputs])
    numbers = [Buffer.of(device, as_bytes(n)).address for n in (magnitude, norm)]
    args = Args(a.group(lists, case.sizes), *numbers, 0.3, DTYPE_CODES[case.dtype], False)
    findings = run_plan(device, planner, "graft_update", args)
    y = torch.cat([buffer.tensor(a.dtype, (n,)) for (buffer, _), n in zip(outputs, case.sizes, strict=True)])

    def reference(dtype: torch.dtype, wide: torch.dtype) -> torch.Tensor:
        return torch.cat(
            op.reference([t.to(dtype) for t in p], [t.to(dtype) for t in g], magnitude.to(wide), norm.to(wide), 0.3)
        )  # fmt: skip

    exact, same = reference(torch.float64, torch.float64), reference(a.dtype, torch.float32)
    return Outcome(findings, compare("y", y, exact, same), {"y": y})


CASES = tensor_lists.sweep(options=2)
