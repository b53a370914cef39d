# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops that blend two latents by two numbers of each sample (csrc/ops/blend.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .cases import Outcome, compare, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES, Latents, Samples, gradients


class Blend(ctypes.Structure):
    _fields_ = (
        ("x", Samples),
        ("f", Samples),
        ("y", Samples),
        ("batch", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("dtype", ctypes.c_uint8),
    )


class BlendBackward(ctypes.Structure):
    _fields_ = (
        ("dy", Samples),
        ("dx", Samples),
        ("df", Samples),
        ("batch", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("dtype", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case:
    batch: int
    size: int
    dtype: str = "float32"
    misalign: int = 0  # elements that x lies off its alignment
    sliced: bool = False
    sigma_data: float = 0.5
    wanted: tuple[bool, bool] = (True, True)  # dx, df of the backward

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.size}", self.dtype, f"{self.sigma_data}"]
        words += ["misaligned"] * bool(self.misalign) + ["sliced"] * self.sliced
        words += [name for name, want in zip(("nodx", "nodf"), self.wanted, strict=True) if not want]
        return "-".join(words)


Reference = Callable[..., torch.Tensor]


Numbers = Callable[[np.random.Generator, int], list[torch.Tensor]]
Make = Callable[..., ctypes.Structure]


def forward(
    op: str,
    case: Case,
    device: Device,
    planner: HostDevice,
    reference: Reference,
    make: Make,
    numbers_of: Numbers,
    inputs: int = 2,
) -> Outcome:
    """reference(*inputs, *numbers, sigma_data); make(Blend, addresses of the numbers, sigma_data) gives the Args."""
    a = Latents(device, case.dtype, (case.batch, case.size), f"{op} {case}")
    tensors = [a.values(0.4 - 0.7 * i) for i in range(inputs)]
    numbers = numbers_of(a.rng, case.batch)
    views = [a.view(v, case.misalign, case.sliced) for v in tensors] + [Samples()] * (2 - inputs)
    buffer, y = a.output()
    blend = Blend(*views, y, case.batch, case.size, DTYPE_CODES[case.dtype])
    findings = run_plan(device, planner, op, make(blend, [a.vector(n) for n in numbers], case.sigma_data))
    exact, same = (
        reference(*(t.to(d) for t in tensors), *(n.to(w) for n in numbers), case.sigma_data)
        for d, w in ((torch.float64, torch.float64), (a.dtype, torch.float32))
    )
    got = a.result(buffer)
    return Outcome(findings, compare("y", got, exact, same), {"y": got})


def backward(
    op: str,
    case: Case,
    device: Device,
    planner: HostDevice,
    reference: Reference,
    make: Make,
    numbers_of: Numbers,
) -> Outcome:
    a = Latents(device, case.dtype, (case.batch, case.size), f"{op} {case}")
    x, f, dy = a.values(), a.values(), a.values(0.3)
    numbers = numbers_of(a.rng, case.batch)
    outputs = {name: a.output() for name, want in zip(("dx", "df"), case.wanted, strict=True) if want}
    absent = (None, Samples())
    blend = BlendBackward(
        a.view(dy, case.misalign, case.sliced),
        outputs.get("dx", absent)[1],
        outputs.get("df", absent)[1],
        case.batch,
        case.size,
        DTYPE_CODES[case.dtype],
    )
    args = make(blend, [a.vector(n) for n in numbers], case.sigma_data)
    findings = run_plan(device, planner, f"{op}_backward", args)

    def all_gradients(dtype: torch.dtype, wide: torch.dtype) -> dict[str, torch.Tensor]:
        of = lambda x, f: reference(x, f, *(n.to(wide) for n in numbers), case.sigma_data)  # noqa: E731
        return dict(zip(("dx", "df"), gradients(of, [x, f], dy, dtype), strict=True))

    exact, same = all_gradients(torch.float64, torch.float64), all_gradients(a.dtype, torch.float32)
    got = {name: a.result(buffer) for name, (buffer, _) in outputs.items()}
    wrong = [w for n, g in got.items() for w in compare(n, g, exact[n], same[n], gradient=True)]
    return Outcome(findings, wrong, got)


def sweep(sigma_data: tuple[float, ...] = (0.5,)) -> list[Case]:
    """Every kernel over the residues of a thread's two vectors and of a block."""
    cases = []
    for d, dtype in enumerate(DTYPE_CODES):
        lanes = 16 // (4 if dtype == "float32" else 2)
        for n, vectors in enumerate((1, 2, 255, 256, 257, 511, 513)):
            k = d + n
            wanted = ((True, True), (True, True), (True, False), (False, True))[k % 4]
            scale = sigma_data[k % len(sigma_data)]
            cases.append(Case(1 + k % 3, vectors * lanes, dtype, 0, k % 2 == 1, scale, wanted))
        for n, size in enumerate((1, 3, 257, 513)):
            k = d + n + 1
            wanted = ((True, True), (False, True), (True, False))[k % 3]
            cases.append(Case(1 + k % 2, size, dtype, 0, k % 3 == 1, sigma_data[k % len(sigma_data)], wanted))
        cases.append(Case(2, 64 * lanes, dtype, misalign=1, sigma_data=sigma_data[0]))
        # a block's share, whole, and a second sample behind it
        cases.append(Case(2, 512 * lanes, dtype, sigma_data=sigma_data[0]))
        cases.append(Case(2, 512, dtype, misalign=1, sigma_data=sigma_data[0]))
    return cases
