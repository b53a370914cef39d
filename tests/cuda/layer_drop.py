# SPDX-License-Identifier: Apache-2.0
"""`layer_drop` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

op = importlib.import_module("prestissimo.ops.layer_drop")
MOST_LAYERS = 64  # kMostLayers of csrc/ops/layer_drop.h
_SIZES = tuple((name, ctypes.c_int64) for name in ("layers", "batch", "time", "channels"))
Layers = RowView * MOST_LAYERS


class Args(ctypes.Structure):
    _fields_ = (
        ("hidden", Layers),
        ("out", RowView),
        *((name, ctypes.c_void_p) for name in ("budget", "target", "variance", "statistics", "partial")),
        *_SIZES,
        ("dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("hidden", Layers),
        ("dhidden", Layers),
        ("dout", RowView),
        *((name, ctypes.c_void_p) for name in ("budget", "dvariance", "statistics", "partial")),
        *_SIZES,
        ("dtype", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case:
    budget: tuple[int, ...]
    layers: int
    time: int
    channels: int
    dtype: str = "float32"
    rescaled: bool = False
    misalign: int = 0  # elements that the last layer lies off its alignment

    def __str__(self) -> str:
        budget = "+".join(map(str, self.budget))
        words = [f"{budget}of{self.layers}x{self.time}x{self.channels}", self.dtype]
        return "-".join(words + ["rescaled"] * self.rescaled + ["misaligned"] * bool(self.misalign))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Forward, then backward; gradients by autograd through the reference, which gets the budgets within range."""
    dtype, B, L, T, C = DTYPES[case.dtype], len(case.budget), case.layers, case.time, case.channels
    rng = np.random.default_rng([B, L, T, C])
    hidden = [inputs(rng, (B, T, C), dtype, mean=0.5) for _ in range(L)]
    dout, dvariance = inputs(rng, (B, T, C), dtype, mean=0.3), inputs(rng, (B,), torch.float32, mean=0.7)
    target = inputs(rng, (B,), torch.float32, mean=3.0, spread=0.2).abs() if case.rescaled else None
    budget = torch.tensor(case.budget)

    def view(buffer: Buffer) -> RowView:
        return RowView(buffer.address, T * C, C)

    def array(values: torch.Tensor, kind: torch.dtype, misalign: int = 0) -> Buffer:
        return Buffer.of(device, as_bytes(values.to(kind)), misalign=misalign * kind.itemsize)

    def output() -> Buffer:
        return Buffer.empty(device, B * T * C * dtype.itemsize)

    layers = Layers(*(view(array(h, dtype, case.misalign * (i == L - 1))) for i, h in enumerate(hidden)))
    out, variance, statistics = output(), Buffer.empty(device, 4 * B), Buffer.empty(device, 12 * B)
    shared = {"layers": L, "batch": B, "time": T, "channels": C, "dtype": tuple(DTYPES).index(case.dtype)}
    budgets = array(budget, torch.int64).address
    args = Args(
        hidden=layers,
        out=view(out),
        budget=budgets,
        target=None if target is None else array(target, torch.float32).address,
        variance=variance.address,
        statistics=statistics.address,
        partial=Buffer.empty(device, 8 * B * T).address,
        **shared,
    )
    findings = run_plan(device, planner, "layer_drop", args)
    dhidden = [output() for _ in hidden]
    backward = BackwardArgs(
        hidden=layers,
        dhidden=Layers(*map(view, dhidden)),
        dout=view(array(dout, dtype)),
        budget=budgets,
        dvariance=array(dvariance, torch.float32).address,
        statistics=statistics.address,
        partial=Buffer.empty(device, 4 * (B * T + B)).address,
        **shared,
    )
    findings += run_plan(device, planner, "layer_drop_backward", backward)

    def reference(of_hidden: torch.dtype, of_target: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = [h.to(of_hidden).requires_grad_() for h in hidden]
        to = None if target is None else target.to(of_target)
        y, v = op.reference(leaves, budget.clamp(1, L), to)
        given = [dout.to(y.dtype), dvariance.to(v.dtype)]
        grads = torch.autograd.grad([y, v], leaves, given)
        found = {f"dhidden[{i}]": g for i, g in enumerate(grads)}
        return {"out": y.detach(), "variance": v.detach()} | found

    got = {"out": out.tensor(dtype, (B, T, C)), "variance": variance.tensor(torch.float32, (B,))}
    got |= {f"dhidden[{i}]": d.tensor(dtype, (B, T, C)) for i, d in enumerate(dhidden)}
    exact, same = reference(torch.float64, torch.float64), reference(dtype, torch.float32)
    wrong = [w for k, v in got.items() for w in compare(k, v, exact[k], same[k], gradient=k[0] == "d")]
    return Outcome(findings, wrong, got)


def _sweep() -> list[Case]:
    """Every budget, beyond the range too; rows within and beyond what the threads hold, more rows than threads of a
    sample, ragged ends."""
    cases = []
    for d, dtype in enumerate(DTYPES):
        lanes = 16 // DTYPES[dtype].itemsize
        kinds = [
            ((2, 3, 1), 3, 3, lanes),
            ((1, 4), 4, 2, 33 * lanes),
            ((2,), 2, 2, 65 * lanes),
            ((1,), 2, 1, 1025 * lanes),
            ((0, 9, 2), 3, 2, 7),
            ((1, 2), 2, 3, 259),
            ((1,), 1, 1, 2051),
        ]
        cases += [Case(*kind, dtype, rescaled=(i + d) % 2 == 0) for i, kind in enumerate(kinds)]
        cases += [
            Case((1, 2), 2, 2, 2 * lanes, dtype, True, misalign=1),
            Case((2, 64), 64, 1, lanes, dtype, True),
        ]
    return [*cases, Case((1,), 1, 258, 2)]


CASES = _sweep()
