# SPDX-License-Identifier: Apache-2.0
"""`dynamic_threshold` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, compare, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES, Latents, Samples

op = importlib.import_module("prestissimo.ops.dynamic_threshold")


class Args(ctypes.Structure):
    _fields_ = (
        ("x", Samples),
        ("y", Samples),
        ("levels", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("quantile", ctypes.c_double),
        ("floor", ctypes.c_float),
        ("dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (("x", Samples), ("dy", Samples), ("dx", Samples), *Args._fields_[2:])


@dataclass(frozen=True)
class Case:
    """`values`: normal, few (many equal magnitudes), zeros, or bins1, bins2 and bins3 (see `in_bins`)."""

    batch: int
    size: int
    dtype: str = "float32"
    quantile: float = 0.995
    floor: float = 0.5
    values: str = "normal"
    sliced: bool = False

    def __str__(self) -> str:
        words = [
            f"{self.batch}x{self.size}",
            self.dtype,
            f"{self.quantile}",
            f"floor{self.floor}",
            self.values,
        ]
        return "-".join(words + ["sliced"] * self.sliced)


THREADS = 256  # that share the bins of a histogram, neighbouring bins by one thread


def ladder(digit: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[int]]:
    """Ascending numbers of a dtype, each in its own bin of the first, second or third histogram, and these bins."""
    exponents = range(113, 143) if dtype == torch.float16 else range(1, 255)
    if digit == 1:
        numbers = [(2.0 ** (e - 127) * (1 + m / 8), 8 * e + m) for e in exponents for m in range(8)]
    else:
        unit = max(2.0 ** (-13 if digit == 2 else -23), torch.finfo(dtype).eps)
        bins = round(unit * 2 ** (13 if digit == 2 else 23))
        numbers = [(1 + unit * (i // bins), i) for i in range(0, 1024, bins)]
    return torch.tensor([x for x, _ in numbers], dtype=torch.float64), [b for _, b in numbers]


def in_bins(digit: int, dtype: torch.dtype, rng: np.random.Generator) -> torch.Tensor:
    """Eight samples whose median lies with the last thread of each of eight warps, in one after the other of its bins,
    and every bin that has a number of the dtype holds one element."""
    values, bins = ladder(digit, dtype)
    own = (2048 if digit == 1 else 1024) // THREADS
    rows = []
    for warp in range(8):
        bin = own * (32 * warp + 31) + own - 1 - warp % own
        rank = min(range(len(bins)), key=lambda i: abs(bins[i] - bin))
        low, high = torch.zeros(len(bins) - rank), values[-1:].repeat(rank + 1)
        row = torch.cat([low.double(), values, high * (1 if digit == 1 else 2)])
        rows.append(row[rng.permutation(len(row))])
    return torch.stack(rows)


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    a = Latents(device, case.dtype, (case.batch, case.size), f"dynamic_threshold {case}")
    x, dy = a.values(0.3), a.values(0.2)
    if case.values == "few":
        x = (2 * x).round() / 2
    elif case.values == "zeros":
        x = torch.zeros_like(x)
    elif case.values.startswith("bins"):
        x = in_bins(int(case.values[-1]), a.dtype, a.rng) * torch.where(x < 0, -1, 1)
    numbers = (case.batch, case.size, case.quantile, case.floor, DTYPE_CODES[case.dtype])
    buffer, y = a.output()
    levels = Buffer.empty(device, 8 * case.batch)
    words = max(case.size + 2 * -(-case.size // 4096), op.HISTOGRAM_WORDS)
    scratch = Buffer.empty(device, 4 * case.batch * words).address
    x_view = a.view(x, sliced=case.sliced)
    args = Args(x_view, y, levels.address, scratch, *numbers)
    findings = run_plan(device, planner, "dynamic_threshold_counts", args)
    findings += run_plan(device, planner, "dynamic_threshold", args)

    def reference(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        leaf = x.to(dtype).requires_grad_()
        y, levels = op.reference(leaf, case.quantile, case.floor)
        return y.detach(), levels.detach(), torch.autograd.grad(y, leaf, dy.to(dtype))[0]

    exact, same = reference(torch.float64), reference(a.dtype)
    got = {"y": a.result(buffer), "levels": levels.tensor(torch.float32, (case.batch, 2))}
    wrong = compare("y", got["y"], exact[0], same[0])
    if not torch.equal(got["levels"].double(), exact[1]):
        wrong.append("levels: not the elements of the ranks")

    buffer, dx = a.output()
    scratch = Buffer.empty(device, 4 * case.batch * -(-case.size // 4096) * op.BLOCK_WORDS).address
    backward = BackwardArgs(x_view, a.view(dy, sliced=case.sliced), dx, levels.address, scratch, *numbers)
    findings += run_plan(device, planner, "dynamic_threshold_backward", backward)
    got["dx"] = a.result(buffer)
    wrong += compare("dx", got["dx"], exact[2], same[2], gradient=True)
    return Outcome(findings, wrong, got)


CASES = [
    case
    for d, dtype in enumerate(DTYPE_CODES)
    for case in (
        Case(1, 1, dtype, floor=30.0),  # moving with its own threshold it would not move at all
        Case(2, 3, dtype, 0.5, floor=1e-3, sliced=True),
        Case(1, 257, dtype, 0.9, values="few"),
        Case(3, 250, dtype, (0.0, 1.0, 0.3)[d], floor=1e-3),
        Case(1, 4097, dtype, 0.98, sliced=d == 1),
        Case(2, 4096, dtype, 0.995, floor=30.0),  # below the floor: the quantile does not move
        Case(1, 8200, dtype, 0.75, values="few"),
        Case(1, 8193, dtype, 0.6, floor=1e-3),
    )
] + [Case(1, 300, values="zeros"), Case(1, 8192, "bfloat16", 0.999)]
CASES += [
    # thresholds of 2^-126 and 2^127 would have gradients that are not finite: the floor is above them
    Case(
        8,
        2 * len(ladder(digit, DTYPES[dtype])[1]) + 1,
        dtype,
        0.5,
        3.3e38 if digit == 1 else 0.5,
        f"bins{digit}",
    )
    for dtype, digits in (("float32", (1, 2, 3)), ("bfloat16", (1, 2)), ("float16", (1, 2)))
    for digit in digits
]
