# SPDX-License-Identifier: Apache-2.0
"""`depthwise_conv1d` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, RowView, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

TIME_BLOCK = 64  # kTimeBlock of csrc/ops/rows.h
op = importlib.import_module("prestissimo.ops.depthwise_conv1d")

_SIZES = (
    *((name, ctypes.c_int64) for name in ("batch", "time_in", "time", "channels", "taps", "offset", "step")),
    ("dtype", ctypes.c_uint8),
)


class Args(ctypes.Structure):
    _fields_ = (
        ("in_", RowView),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", RowView),
        *_SIZES,
    )


class WeightArgs(ctypes.Structure):
    _fields_ = (
        ("dy", RowView),
        ("x", RowView),
        ("dweight", ctypes.c_void_p),
        ("dbias", ctypes.c_void_p),
        ("partial", ctypes.c_void_p),
        *_SIZES,
    )


@dataclass(frozen=True)
class Case:
    batch: int
    time: int  # of x
    channels: int
    dtype: str = "float32"
    taps: int = 7
    dilation: int = 1
    padding: int = 3
    bias: bool = True
    pitch: int = 0  # elements between the rows of x beyond their own

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.time}x{self.channels}", self.dtype]
        words += [f"k{self.taps}d{self.dilation}p{self.padding}"]
        return "-".join(words + ["no-bias"] * (not self.bias) + ["pitched"] * bool(self.pitch))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Forward, dx by the same kernel with the taps reversed, and the sums; gradients by autograd."""
    dtype = DTYPES[case.dtype]
    rng = np.random.default_rng([case.batch, case.time, case.channels, case.taps])
    B, C, K, steps = case.batch, case.channels, case.taps, case.time
    T = steps + 2 * case.padding - case.dilation * (K - 1)
    x, dy = inputs(rng, (B, steps, C), dtype, mean=0.5), inputs(rng, (B, T, C), dtype, mean=0.3)
    weight, bias = inputs(rng, (C, K), dtype, mean=0.2), inputs(rng, (C,), dtype, mean=0.4)

    def view(values: torch.Tensor, pitch: int = 0) -> RowView:
        wide = torch.full((*values.shape[:-1], C + pitch), float("nan"), dtype=dtype)
        wide[..., :C] = values
        return RowView(Buffer.of(device, as_bytes(wide)).address, wide.stride(0), wide.stride(1))

    def output(time: int) -> tuple[Buffer, RowView]:
        buffer = Buffer.empty(device, B * time * C * dtype.itemsize)
        return buffer, RowView(buffer.address, time * C, C)

    weights = Buffer.of(device, as_bytes(weight.to(dtype))).address
    code = tuple(DTYPES).index(case.dtype)
    y, y_view = output(T)
    forward = Args(
        view(x, case.pitch),
        weights,
        Buffer.of(device, as_bytes(bias.to(dtype))).address if case.bias else None,
        y_view,
        *(B, steps, T, C, K, -case.padding, case.dilation, code),
    )
    findings = run_plan(device, planner, "depthwise_conv1d", forward)
    dx, dx_view = output(steps)
    back = Args(view(dy), weights, None, dx_view, B, T, steps, C, K, case.padding, -case.dilation, code)
    findings += run_plan(device, planner, "depthwise_conv1d", back)
    dweight, dbias = (Buffer.empty(device, n * dtype.itemsize) for n in (C * K, C))
    partial = Buffer.empty(device, 4 * (K + 1) * B * -(-T // TIME_BLOCK) * C)
    sums = WeightArgs(
        view(dy),
        view(x, case.pitch),
        *(b.address for b in (dweight, dbias, partial)),
        *(B, steps, T, C, K, -case.padding, case.dilation, code),
    )
    findings += run_plan(device, planner, "depthwise_conv1d_weight", sums)

    def reference(wide: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = [x.transpose(1, 2), weight[:, None], bias]
        leaves = [v.to(wide).contiguous().requires_grad_() for v in leaves]
        result = op.reference(
            leaves[0], leaves[1], leaves[2] if case.bias else None, case.padding, case.dilation
        )
        grads = torch.autograd.grad(result, leaves, dy.transpose(1, 2).to(wide), allow_unused=True)
        dbias = dy.to(wide).sum((0, 1)) if grads[2] is None else grads[2]
        return {
            "y": result.detach().transpose(1, 2),
            "dx": grads[0].transpose(1, 2),
            "dweight": grads[1][:, 0],
            "dbias": dbias,
        }

    got = {
        "y": y.tensor(dtype, (B, T, C)),
        "dx": dx.tensor(dtype, (B, steps, C)),
        "dweight": dweight.tensor(dtype, (C, K)),
        "dbias": dbias.tensor(dtype, (C,)),
    }
    exact, same = reference(torch.float64), reference(dtype)
    wrong = [w for k, v in got.items() for w in compare(k, v, exact[k], same[k], gradient=k != "y")]
    return Outcome(findings, wrong, got)


def _sweep() -> list[Case]:
    """Every type and width; ragged blocks of time and channels, all lengths of kernels, dilation beyond the ends."""
    cases = []
    for d, dtype in enumerate(DTYPES):
        lanes = 16 // DTYPES[dtype].itemsize
        cases += [
            Case(2, 65, lanes, dtype),
            Case(1, 3, 33 * lanes, dtype, bias=False),
            Case(1, 70, 2 * lanes, dtype, 3, 2, 2, pitch=lanes),
            Case(2, 9, 3, dtype, 6, 3, 7),
            Case(1, 130, 7, dtype, 5, 1, 0),
            Case(1, 4, 259, dtype, 1 + d, 1, 0, bias=False),
            Case(1, 5, lanes, dtype, 7, 2, 6, pitch=1),
            Case(1, 2, 32 * lanes, dtype, 2, 1, 3),
        ]
    return cases


CASES = _sweep()
