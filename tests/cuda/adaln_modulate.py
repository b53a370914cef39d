# SPDX-License-Identifier: Apache-2.0
"""`adaln_modulate` and its backward as cases for the CUDA lanes: inputs, Args, float64 reference."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, inputs, run_plan
from .devices import Device, HostDevice, Plan
from .rows import NOT_FINITE, RowsCase, compare_special, put_special

TIME_BLOCK = 64  # kTimeBlock of csrc/ops/adaln_modulate.h
op = importlib.import_module("prestissimo.ops.adaln_modulate")


class Args(ctypes.Structure):
    _fields_ = (
        ("x", RowView),
        ("shift", RowView),
        ("scale", RowView),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y", RowView),
        ("batch", ctypes.c_int64),
        ("time", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("eps", ctypes.c_float),
        ("norm", ctypes.c_uint8),
        ("dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("forward", Args),
        ("dy", RowView),
        ("dx", RowView),
        ("dshift", RowView),
        ("dscale", RowView),
        ("dweight", ctypes.c_void_p),
        ("dbias", ctypes.c_void_p),
        ("partial", ctypes.c_void_p),
        ("shift_per_row", ctypes.c_bool),
        ("scale_per_row", ctypes.c_bool),
    )


@dataclass(frozen=True)
class Case(RowsCase):
    """`shift`, `scale`: none, sample ([B, C]), row ([B, T, C]) or sliced ([B, C], long batch stride)."""

    norm: str = "layer"
    shift: str = "sample"
    scale: str = "sample"
    weight: bool = False
    bias: bool = False
    spikes: bool = False  # every row is flat but for one channel; of at least 2048
    backward: bool = True

    def words(self) -> list[str]:
        words = [self.norm, f"shift={self.shift}", f"scale={self.scale}"]
        words += ["weight"] * self.weight + ["bias"] * self.bias
        return words + ["spikes"] * self.spikes + ["forward"] * (not self.backward)


SLICE_PITCH = 6  # shift and scale are chunks of a [B, 6 C] projection


class _Arrays:
    """The case's arrays as float64 tensors (exact values of the dtype) and as buffers on the device."""

    def __init__(self, case: Case, device: Device) -> None:
        self.case, self.device, self.dtype = case, device, DTYPES[case.dtype]
        rng = np.random.default_rng(
            [case.batch, case.time, case.channels, len(case.shift), len(case.scale), case.weight]
        )
        B, T, C = case.batch, case.time, case.channels
        self.x = inputs(rng, (B, T, C), self.dtype, mean=2.0)
        self.dy = inputs(rng, (B, T, C), self.dtype, mean=0.3)
        if case.spikes:
            for t in range(T):
                c = (0, C // 2, 2047)[t] if t < 3 else C - 1 - (t - 3)
                self.x[:, t] = self.x[:, t] / 64
                self.x[:, t, c] = 40.0
                self.dy[:, t, c] = 30.0
            self.x = self.x.to(self.dtype).double()
        put_special(self.x, case.special)
        self.shift = self._modulation(rng, case.shift)
        self.scale = self._modulation(rng, case.scale)
        self.weight = inputs(rng, (C,), self.dtype, mean=0.7) if case.weight else None
        self.bias = inputs(rng, (C,), self.dtype, mean=-0.2) if case.bias else None

    def _modulation(self, rng: np.random.Generator, kind: str) -> torch.Tensor | None:
        B, T, C = self.case.batch, self.case.time, self.case.channels
        if kind == "none":
            return None
        return inputs(rng, (B, T, C) if kind == "row" else (B, C), self.dtype, mean=0.4, spread=0.5)

    def view(self, values: torch.Tensor | None, kind: str = "row", misalign: int = 0) -> RowView:
        """An input on the device."""
        if values is None:
            return RowView()
        C = self.case.channels
        if kind == "sliced":
            wide = torch.full((values.shape[0], SLICE_PITCH * C), float("nan"), dtype=torch.float64)
            wide[:, 2 * C : 3 * C] = values
            base = self.buffer(wide).address
            return RowView(base + 2 * C * self.dtype.itemsize, SLICE_PITCH * C, 0)
        address = self.buffer(values, misalign).address
        if values.dim() == 3:
            return RowView(address, values.shape[1] * C, C)
        return RowView(address, C, 0)

    def buffer(self, values: torch.Tensor, misalign: int = 0) -> Buffer:
        raw = as_bytes(values.to(self.dtype))
        return Buffer.of(self.device, raw, misalign=misalign * self.dtype.itemsize)

    def output(self, *shape: int) -> tuple[Buffer, RowView]:
        C = self.case.channels
        buffer = Buffer.empty(self.device, int(np.prod(shape)) * self.dtype.itemsize)
        strides = (shape[1] * C, C) if len(shape) == 3 else (C, 0)
        return buffer, RowView(buffer.address, *strides)


def _forward_args(a: _Arrays, y: RowView) -> Args:
    case = a.case
    address = lambda v: None if v is None else a.buffer(v).address  # noqa: E731
    return Args(
        x=a.view(a.x, misalign=case.misalign),
        shift=a.view(a.shift, case.shift),
        scale=a.view(a.scale, case.scale),
        weight=address(a.weight),
        bias=address(a.bias),
        y=y,
        batch=case.batch,
        time=case.time,
        channels=case.channels,
        eps=1e-6,
        norm=("layer", "rms").index(case.norm),
        dtype=("float32", "bfloat16", "float16").index(case.dtype),
    )


def run_forward(case: Case, device: Device, planner: HostDevice) -> Outcome:
    a = _Arrays(case, device)
    buffer, y = a.output(case.batch, case.time, case.channels)
    findings = run_plan(device, planner, "adaln_modulate", _forward_args(a, y))
    options = {"eps": 1e-6, "norm": case.norm}

    def reference(dtype: torch.dtype) -> torch.Tensor:
        v = [None if t is None else t.to(dtype) for t in (a.x, a.shift, a.scale, a.weight, a.bias)]
        return op.reference(*v, **options)

    got = buffer.tensor(a.dtype, a.x.shape)
    wrong = compare_special("y", got, reference(torch.float64), reference(a.dtype))
    return Outcome(findings, wrong, {"y": got})


def timed_forward(case: Case, device: Device, planner: HostDevice) -> tuple[Plan, int]:
    """The forward's plan on the device's buffers, and the bytes that it must move: x and the modulation in, y out."""
    a = _Arrays(case, device)
    _, y = a.output(case.batch, case.time, case.channels)
    elements = 2 * case.batch * case.time * case.channels + 2 * case.batch * case.channels
    return planner.plan("adaln_modulate", bytes(_forward_args(a, y))), elements * a.dtype.itemsize


def run_backward(case: Case, device: Device, planner: HostDevice) -> Outcome:
    a = _Arrays(case, device)
    B, T, C = case.batch, case.time, case.channels
    outputs: dict[str, tuple[Buffer, tuple[int, ...]]] = {}

    def want(name: str, values: torch.Tensor | None) -> RowView:
        if values is None:
            return RowView()
        buffer, view = a.output(*values.shape)
        outputs[name] = buffer, tuple(values.shape)
        return view

    dx, dshift, dscale = want("dx", a.x), want("dshift", a.shift), want("dscale", a.scale)
    dweight, dbias = want("dweight", a.weight).data, want("dbias", a.bias).data
    sums = sum(len(shape) < 3 for _, shape in outputs.values())
    floats = sums * B * -(-T // TIME_BLOCK) * C + (2 * B * T if sums else 0)
    args = BackwardArgs(
        forward=_forward_args(a, RowView()),
        dy=a.view(a.dy),
        dx=dx,
        dshift=dshift,
        dscale=dscale,
        dweight=dweight,
        dbias=dbias,
        partial=Buffer.empty(device, 4 * floats).address,
        shift_per_row=case.shift == "row",
        scale_per_row=case.scale == "row",
    )
    findings = run_plan(device, planner, "adaln_modulate_backward", args)

    def reference(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Gradients by autograd through the forward reference: independent of the closed form."""
        leaves = {
            name: values.to(dtype).requires_grad_()
            for name in ("x", "shift", "scale", "weight", "bias")
            if (values := getattr(a, name)) is not None
        }
        y = op.reference(**leaves, eps=1e-6, norm=case.norm)
        gradients = torch.autograd.grad(y, list(leaves.values()), a.dy.to(dtype))
        return {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}

    exact, same_dtype = reference(torch.float64), reference(a.dtype)
    got = {name: buffer.tensor(a.dtype, shape) for name, (buffer, shape) in outputs.items()}
    wrong = [
        w
        for name, g in got.items()
        for w in compare_special(name, g, exact[name], same_dtype[name], gradient=True)
    ]
    return Outcome(findings, wrong, got)


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    forward = run_forward(case, device, planner)
    return forward + run_backward(case, device, planner) if case.backward else forward


# What a warp's worth of vectors, the held vectors of one warp, and several warps leave over; 512 threads hold 1024
# vectors or 2048 single elements, and longer rows have a tail that is read again.
_VECTORS = (1, 2, 31, 33, 63, 64, 65, 97, 129, 1024)
_SINGLES = (1, 3, 31, 33, 65, 97, 127, 129, 161, 257)
_MODULATION = ("sample", "row", "none", "sliced", "row", "sample", "none")


def _variant(k: int) -> dict[str, Any]:
    """Variants at periods that are coprime, so that they meet each other and every size."""
    return {
        "norm": ("layer", "rms")[k % 2],
        "shift": _MODULATION[k % 7],
        "scale": _MODULATION[(3 * k + k // 7) % 7],
        "weight": k % 5 in (0, 1, 3),
        "bias": k % 5 in (1, 2, 3),
    }


def _sweep() -> list[Case]:
    """Every kernel of the op over the residues of its tiles."""
    cases = []
    for d, dtype in enumerate(DTYPES):
        lanes = 16 // DTYPES[dtype].itemsize
        for n, vectors in enumerate(_VECTORS):
            k = 10 * d + n
            big = vectors > 100
            shape = (1 if big else 1 + k % 3, 1 + k % 2 if big else (9, 3, 1, 8, 2)[k % 5], lanes * vectors)
            cases.append(Case(*shape, dtype, **_variant(k)))
        for n, channels in enumerate(_SINGLES):
            k = 31 + 11 * d + n
            shape = (1 + k % 2, (2, 9, 1, 7)[k % 4], channels)
            cases.append(Case(*shape, dtype, misalign=0 if channels % lanes else 1, **_variant(k)))
        # whole and ragged blocks of TIME_BLOCK rows, many samples, one gradient for each row and one for each sample
        cases += [
            Case(2, 65, lanes, dtype, weight=True, bias=True),
            Case(1, 64, 2 * lanes, dtype, "rms", shift="sliced", scale="row", weight=True),
            Case(3, 63, 5, dtype, shift="row", bias=True),
            Case(1, 130, 9, dtype, "rms", shift="none", scale="none", weight=True, bias=True),
            Case(9, 1, 3, dtype, scale="row", shift="none", weight=True),
            Case(1, 70, 7, dtype, scale="row", weight=True, bias=True),
            Case(2, 70, 3 * lanes, dtype, scale="row", weight=True, bias=True),
        ]
        # rows longer than the threads hold, with a spike wherever a lane of the tail or a thread's share could be lost
        for norm in ("layer", "rms"):
            long = lanes * 1025
            cases += [
                Case(1, 3 + lanes, long, dtype, norm, scale="row", weight=True, bias=True, spikes=True),
                Case(1, 5, 2051, dtype, norm, shift="row", weight=True, bias=True, misalign=1, spikes=True),
            ]
        cases.append(Case(1, 1, lanes * 1056, dtype, shift="sample", scale="row", bias=True))
        cases.append(Case(1, 1, 2081, dtype, shift="row", scale="sample", weight=True))
        for n, special in enumerate(NOT_FINITE):
            odd, even = _variant(d + 2 * n + 1), _variant(d + 2 * n)
            cases += [Case(2, 2, 2 * lanes, dtype, special=special, **odd)]
            cases += [Case(1, 2, 9, dtype, special=special, **even)]
    return cases


CASES = _sweep()
