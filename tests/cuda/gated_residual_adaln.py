# SPDX-License-Identifier: Apache-2.0
"""`gated_residual_adaln` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from . import adaln_modulate
from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, inputs, run_plan
from .devices import Device, HostDevice
from .gated_residual import STREAMS, TIME_BLOCK
from .rows import NOT_FINITE, RowsCase, compare_special, put_special

op = importlib.import_module("prestissimo.ops.gated_residual_adaln")
VECTORS = ("gate", "shift", "scale", "weight", "bias")


class Args(ctypes.Structure):
    _fields_ = (
        ("adaln", adaln_modulate.Args),
        *((name, RowView) for name in ("x", "branch", "gate", "r")),
        ("form", ctypes.c_uint8),
        ("branch_dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("adaln", adaln_modulate.BackwardArgs),
        *((name, RowView) for name in ("dr", "branch", "gate", "dbranch", "dgate")),
        ("gate_partial", ctypes.c_void_p),
        ("form", ctypes.c_uint8),
        ("branch_dtype", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case(RowsCase):
    """vectors: which of gate, shift, scale, weight and bias there are, by their first letters but for scale (c)."""

    branch_dtype: str = "float32"
    vectors: str = "gsc"
    per_row: bool = False  # shift and scale are [B, T, C]
    norm: str = "layer"
    form: str = "plain"

    def words(self) -> list[str]:
        words = [self.branch_dtype, self.vectors or "bare", self.norm, self.form]
        return words + ["per-row"] * self.per_row


class _Arrays:
    """Exact values as float64 tensors; views of them on the device."""

    def __init__(self, case: Case, device: Device) -> None:
        self.device = device
        self.stream, self.narrow = DTYPES[case.dtype], DTYPES[case.branch_dtype]
        rng = np.random.default_rng([case.batch, case.time, case.channels, len(case.vectors)])
        B, T, C = case.batch, case.time, case.channels
        self.rows, modulation = (B, T, C), (B, T, C) if case.per_row else (B, C)
        self.x = inputs(rng, self.rows, self.stream, mean=0.5)
        self.branch = inputs(rng, self.rows, self.narrow, mean=-0.4)
        put_special(self.branch, case.special)
        self.dr = inputs(rng, self.rows, self.stream, mean=0.2)
        self.dy = inputs(rng, self.rows, self.narrow, mean=0.3)
        shapes = {"gate": (B, C), "shift": modulation, "scale": modulation, "weight": (C,), "bias": (C,)}
        letters = dict(zip(VECTORS, "gscwb", strict=True))
        self.vectors = {
            name: inputs(rng, shapes[name], self.stream, mean=0.4, spread=0.5)
            if letters[name] in case.vectors
            else None
            for name in VECTORS
        }

    def view(self, values: torch.Tensor | None, dtype: torch.dtype, misalign: int = 0) -> RowView:
        if values is None:
            return RowView()
        raw = as_bytes(values.to(dtype))
        address = Buffer.of(self.device, raw, misalign=misalign * dtype.itemsize).address
        strides = values.stride()
        return RowView(address, strides[0], strides[1] if len(strides) == 3 else 0)

    def output(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Buffer, RowView]:
        buffer = Buffer.empty(self.device, int(np.prod(shape)) * dtype.itemsize)
        C = shape[-1]
        return buffer, RowView(buffer.address, int(np.prod(shape[1:])), C if len(shape) == 3 else 0)

    def adaln(self, case: Case, x: RowView, y: RowView) -> adaln_modulate.Args:
        v = {k: self.view(t, self.stream) for k, t in self.vectors.items()}
        return adaln_modulate.Args(
            x=x,
            shift=v["shift"],
            scale=v["scale"],
            weight=v["weight"].data,
            bias=v["bias"].data,
            y=y,
            batch=case.batch,
            time=case.time,
            channels=case.channels,
            eps=1e-6,
            norm=("layer", "rms").index(case.norm),
            dtype=tuple(DTYPES).index(case.dtype),
        )


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Forward, then backward at the r that the forward made; gradients by autograd through the reference."""
    a = _Arrays(case, device)
    narrow = tuple(DTYPES).index(case.branch_dtype)
    form = ("plain", "sigmoid").index(case.form)
    r, r_view = a.output(a.rows, a.stream)
    y, y_view = a.output(a.rows, a.narrow)
    branch, gate = a.view(a.branch, a.narrow, case.misalign), a.view(a.vectors["gate"], a.stream)
    forward = Args(a.adaln(case, r_view, y_view), a.view(a.x, a.stream), branch, gate, r_view, form, narrow)
    findings = run_plan(device, planner, "gated_residual_adaln", forward)
    got = {"r": r.tensor(a.stream, a.rows), "y": y.tensor(a.narrow, a.rows)}

    outputs = {"x": (a.rows, a.stream), "branch": (a.rows, a.narrow)}
    outputs |= {k: (tuple(v.shape), a.stream) for k, v in a.vectors.items() if v is not None}
    made = {k: a.output(*spec) for k, spec in outputs.items()}
    view = {k: made[k][1] if k in made else RowView() for k in ("x", "branch", *VECTORS)}
    sums = sum(k in made and len(outputs[k][0]) < 3 for k in VECTORS[1:])
    blocks = -(-case.time // TIME_BLOCK)
    plane = case.batch * blocks * case.channels
    size = sums * plane + (2 * case.batch * case.time if sums else 0)
    partial = Buffer.empty(device, 4 * (size + (plane if "gate" in made else 0))).address
    adaln = adaln_modulate.BackwardArgs(
        forward=a.adaln(case, a.view(got["r"].double(), a.stream), RowView()),
        dy=a.view(a.dy, a.narrow),
        dx=view["x"],
        dshift=view["shift"],
        dscale=view["scale"],
        dweight=view["weight"].data,
        dbias=view["bias"].data,
        partial=partial,
        shift_per_row=case.per_row and "shift" in made,
        scale_per_row=case.per_row and "scale" in made,
    )
    backward = BackwardArgs(
        adaln,
        a.view(a.dr, a.stream),
        branch,
        gate,
        view["branch"],
        view["gate"],
        partial + 4 * size,
        form,
        narrow,
    )
    findings += run_plan(device, planner, "gated_residual_adaln_backward", backward)
    got |= {f"d{k}": buffer.tensor(*reversed(outputs[k])) for k, (buffer, _) in made.items()}

    def reference(stream: torch.dtype, narrow: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = {"x": a.x.to(stream), "branch": a.branch.to(narrow)}
        leaves |= {k: v.to(stream) for k, v in a.vectors.items() if v is not None}
        for leaf in leaves.values():
            leaf.requires_grad_()
        out = op.reference(**leaves, eps=1e-6, norm=case.norm, gate_form=case.form)
        grads = torch.autograd.grad(
            out, list(leaves.values()), [a.dr.to(out[0].dtype), a.dy.to(out[1].dtype)]
        )
        found = dict(zip(("r", "y"), (o.detach() for o in out), strict=True))
        return found | {f"d{k}": g for k, g in zip(leaves, grads, strict=True)}

    exact, same = reference(torch.float64, torch.float64), reference(a.stream, a.narrow)
    wrong = [
        w
        for k, v in got.items()
        for w in compare_special(k, v, exact[k], same[k], gradient=k not in ("r", "y"))
    ]
    return Outcome(findings, wrong, got)


def _sweep() -> list[Case]:
    """Every pair of types; rows within and beyond what the threads hold, and that end where a round of them does; each
    vector there and absent; all sums of a sigmoid gate; more blocks of rows than groups add up."""
    cases = []
    sets = ("gsc", "gscwb", "", "wb", "gw", "sc", "gscb")
    for d, (dtype, branch) in enumerate(STREAMS):
        lanes = 16 // DTYPES[branch].itemsize
        shapes = [
            (2, 65, lanes),
            (1, 3, 32 * lanes),
            (1, 2, 64 * lanes),
        ]
        shapes += [(2, 2, 1), (1, 66, 7), (1, 2, 259)]
        for k, shape in enumerate(shapes):
            n = d + 2 * k
            norm, form = ("layer", "rms")[n % 2 if shape[2] > 1 else 0], ("plain", "sigmoid")[n // 2 % 2]
            if shape[1] > 64:
                cases.append(Case(*shape, dtype, branch, "gscwb", norm=norm, form="sigmoid"))
            else:
                cases.append(Case(*shape, dtype, branch, sets[n % 7], n % 3 == 0, norm, form))
        cases += [
            Case(2, 2, 288, dtype, branch, misalign=1),
            Case(1, 2, 2 * lanes, dtype, branch, "gscwb", per_row=True),
            # the rest of a row that its threads do not hold, with all there is to it
            Case(1, 1, 1500 * lanes, dtype, branch, "gscwb", per_row=True),
            Case(1, 1, 4611, dtype, branch, "gscwb", per_row=True),
        ]
        special = NOT_FINITE[d % 3]
        cases += [Case(2, 2, lanes, dtype, branch, norm=norm, special=special) for norm in ("layer", "rms")]
    return [*cases, *(Case(1, 2100, 1, dtype, dtype, vectors="gsb") for dtype in DTYPES)]


CASES = _sweep()
