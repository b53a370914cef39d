# SPDX-License-Identifier: Apache-2.0
"""`hierarchy_argmax` as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from prestissimo.ops.hierarchy_argmax import reference

from .cases import DTYPES, Buffer, Outcome, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

DTYPE_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}


class Args(ctypes.Structure):
    _fields_ = (
        *((n, ctypes.c_void_p) for n in ("x", "subclasses", "classes")),
        *((n, ctypes.c_int64) for n in ("x_stride", "subclass_stride", "class_stride", "N", "S", "C", "E")),
        *((n, ctypes.c_void_p) for n in ("parents", "out", "workspace")),
        ("dtype", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case:
    """pitch: elements between rows; special: what stands in one value of x (row 1) and of subclass 3.

    twins: sums of a subclass and its class are signs, and those of subclass 2i differ in one place from those of
    2i + 1; every row is one of the latter, whose product with its twin is the next best, by two, and comes first.
    """

    N: int
    S: int
    C: int
    E: int
    dtype: str = "float32"
    classes: bool = True
    pitch: int = 0
    special: float | None = None
    equal: bool = False  # all subclasses
    twins: bool = False  # each subclass is a class of its own, in another order

    def __str__(self) -> str:
        words = [f"{self.N}x{self.S}of{self.C}x{self.E}", self.dtype]
        words += ["alone"] * (not self.classes) + [f"pitch{self.pitch}"] * bool(self.pitch)
        words += [str(self.special)] * (self.special is not None) + ["equal"] * self.equal
        words += ["twins"] * self.twins
        return "-".join(words)


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    dtype = DTYPES[case.dtype]
    x, w, u = (inputs(rng, (n, case.E), dtype, 0.1) for n in (case.N, case.S, case.C))
    parents = torch.from_numpy(rng.integers(0, case.C, case.S))
    if case.equal:
        w[:] = w[:1]
        parents = torch.arange(case.S).flip(0) % case.C
        u[:] = u[:1]
    if case.twins:
        parents = torch.from_numpy(rng.permutation(case.S))
        sums = torch.from_numpy(rng.choice([-1.0, 1.0], (case.S, case.E)))
        for i in range(1, case.S, 2):
            sums[i - 1] = sums[i]
            tile, place = divmod(
                i // 2, 32
            )  # of 64 subclasses: from the last value on, in every other from the first
            sums[i - 1, (place if tile % 2 else -1 - place) % case.E] *= -1
        x = sums[(2 * torch.arange(case.N) + 1) % (case.S // 2 * 2)]
        u = torch.from_numpy(rng.choice([-1.0, 1.0], (case.C, case.E)))
        w = sums - u[parents] if case.classes else sums
    if case.special is not None:
        x[1, 2] = w[3, 1] = case.special

    def rows(values: torch.Tensor) -> int:
        """NaN between the rows."""
        wide = torch.full((len(values), case.E + case.pitch), float("nan"), dtype=dtype)
        wide[:, : case.E] = values
        return Buffer.of(device, as_bytes(wide)).address

    out = Buffer.empty(device, 8 * case.N)
    workspace = Buffer.empty(device, case.S * case.E * dtype.itemsize) if case.classes else None
    stride = case.E + case.pitch
    args = Args(
        *(rows(x), rows(w), rows(u) if case.classes else None, stride, stride, stride),
        *(case.N, case.S, case.C, case.E, Buffer.of(device, as_bytes(parents)).address),
        *(out.address, workspace.address if workspace else None, DTYPE_CODES[case.dtype]),
    )
    findings = run_plan(device, planner, "hierarchy_argmax", args)
    got = out.tensor(torch.int64, (case.N,))
    if not ((got >= 0) & (got < case.C)).all():
        return Outcome(findings, ["out: no class"], {"out": got})
    rated = x @ (w + u[parents] if case.classes else w).T

    def rating(chosen: torch.Tensor) -> torch.Tensor:
        """Exact, of the best subclass of the chosen class."""
        return rated.masked_fill(parents != chosen[:, None], -torch.inf).amax(-1)

    arguments = (x, w, parents, u if case.classes else None)
    exact = reference(*arguments)
    same = reference(*(v.to(dtype) if v is not None and v.is_floating_point() else v for v in arguments))
    if case.special is not None or case.equal or case.twins:
        wrong = int((got != exact).sum())
        return Outcome(findings, [f"out: {wrong} classes differ"] if wrong else [], {"out": got})
    wrong_values = compare("rating", rating(got).to(dtype), rating(exact), rating(same).to(dtype))
    return Outcome(findings, wrong_values, {"out": got})


NAN = float("nan")
CASES = [
    Case(70, 130, 5, 40),
    Case(3, 5, 2, 17, pitch=3),
    Case(65, 64, 9, 16, classes=False),
    Case(66, 130, 130, 35, pitch=3, twins=True),
    Case(20, 39, 39, 40, classes=False, pitch=5, twins=True),
    Case(2, 70, 7, 33, special=NAN),
    Case(4, 90, 90, 6, equal=True),
    *(
        case
        for dtype in ("bfloat16", "float16")
        for case in (
            Case(70, 130, 130, 40, dtype, twins=True),
            Case(66, 130, 130, 39, dtype, pitch=1, twins=True),
            Case(66, 65, 9, 64, dtype, classes=False, pitch=8),
            Case(5, 66, 4, 37, dtype),
            Case(3, 40, 40, 24, dtype, equal=True),
            Case(5, 27, 27, 21, dtype, equal=True),
            Case(4, 9, 3, 33, dtype, classes=False, pitch=2, special=NAN),
        )
    ),
    Case(1, 1, 1, 1, "bfloat16"),
    # the other remainders of a chunk of 8 values
    *(Case(S // 2, S, S, E, "bfloat16", twins=True) for S, E in ((10, 34), (22, 36), (46, 38))),
    *(Case(S // 2, S, S, E, "float16", classes=False, twins=True) for S, E in ((36, 33), (54, 35), (62, 38))),
]
