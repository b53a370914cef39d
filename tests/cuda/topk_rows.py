# SPDX-License-Identifier: Apache-2.0
"""What the CUDA cases of the top-k ops share: rows as csrc/ops/topk_rows.h sees them."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, as_bytes, compare, run_plan
from .devices import Device, HostDevice

DTYPE_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}
PITCH = 3  # elements between dense rows


class TopkRows(ctypes.Structure):
    _fields_ = (
        ("scores", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("selected", ctypes.c_int64),
        ("temperature", ctypes.c_float),
        ("hard", ctypes.c_bool),
        ("dtype", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case:
    """`lengths`: of all rows where they differ (CSR), else of each of `rows` rows. k: of all rows, or of each.

    levels: scores are whole numbers, many of them equal; falling: the highest of a row first; still: no gradient comes
    into the first row.
    """

    lengths: tuple[int, ...] | int
    k: tuple[int, ...] | int
    dtype: str = "float32"
    rows: int = 1
    temperature: float = 1.0
    spread: float = 2.0
    noise: bool = False
    hard: bool = False
    selected: int = -1
    slots: tuple[int, ...] = ()
    equal: bool = False  # all scores of a row
    mean: float = 1.5
    levels: bool = False
    falling: bool = False
    still: bool = False

    @property
    def longest(self) -> int:
        return self.lengths if isinstance(self.lengths, int) else max(self.lengths)

    def __str__(self) -> str:
        lengths = self.lengths
        many = f"{self.rows}x{lengths}" if isinstance(lengths, int) else f"{len(lengths)}csr{sum(lengths)}"
        k = self.k if isinstance(self.k, int) else "each"
        words = [many, f"k{k}", self.dtype, f"t{self.temperature}", f"s{self.spread}"]
        words += ["noise"] * self.noise + ["hard"] * self.hard + ["equal"] * self.equal
        words += [f"select{self.selected}"] * (self.selected >= 0) + ["slots"] * bool(self.slots)
        words += [f"about{self.mean:g}"] * (self.mean != Case.mean) + ["levels"] * self.levels
        return "-".join(words + ["falling"] * self.falling + ["still"] * self.still)


class Rows:
    """A case's arrays: values of the dtype as float64, and where they lie on the device."""

    def __init__(self, case: Case, device: Device, most: int) -> None:
        self.case, self.device, self.dtype = case, device, DTYPES[case.dtype]
        rng = np.random.default_rng(zlib.crc32(str(case).encode()))
        csr = not isinstance(case.lengths, int)
        lengths = case.lengths if not isinstance(case.lengths, int) else (case.lengths,) * case.rows
        self.size, self.count = sum(lengths), len(lengths)
        self.shape = (self.size,) if csr else (case.rows, case.longest)
        draw = lambda: torch.from_numpy(rng.standard_normal(self.shape))  # noqa: E731
        scores = draw() * (0.0 if case.equal else case.spread) + case.mean
        self.scores = (scores.round() if case.levels else scores).to(self.dtype).double()
        self.dout = (draw() + 0.3).to(self.dtype).double()
        self.noise = draw().float() if case.noise else None
        self.offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64) if csr else None
        self.counts = None if isinstance(case.k, int) else torch.tensor(case.k, dtype=torch.int64)
        self.ends = np.cumsum(lengths)
        if case.falling:
            for row in self.each(self.scores):
                row[:] = row.sort(descending=True).values
        if case.still:
            self.each(self.dout)[0][:] = 0
        self.slots = torch.tensor(case.slots, dtype=torch.int64) if case.slots else None
        self.k = case.k if isinstance(case.k, int) else most

    def each(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Views of the rows."""
        return torch.tensor_split(values.view(-1), self.ends[:-1].tolist())

    def arguments(self, dtype: torch.dtype) -> tuple[Any, ...]:
        """Those of the references."""
        case = self.case
        return (
            *(self.scores.to(dtype), self.k, self.counts, self.offsets, case.temperature, case.hard),
            *(case.selected, self.slots, self.noise),
        )

    def input(self, values: torch.Tensor | None) -> int | None:
        return None if values is None else Buffer.of(self.device, as_bytes(values)).address

    def structure(self) -> TopkRows:
        """Dense rows lie PITCH elements apart, NaN between them."""
        case, scores = self.case, self.scores.to(self.dtype)
        if self.offsets is None:
            wide = torch.full((case.rows, case.longest + PITCH), float("nan"), dtype=self.dtype)
            wide[:, : case.longest] = scores
            scores = wide
        dense = self.offsets is None
        return TopkRows(
            *map(self.input, (scores, self.noise, self.offsets, self.counts, self.slots)),
            *(self.count, case.longest if dense else 0, case.longest + PITCH if dense else 0, self.size),
            *(self.k, case.selected, case.temperature, case.hard, DTYPE_CODES[case.dtype]),
        )

    def output(self) -> Buffer:
        return Buffer.empty(self.device, self.size * self.dtype.itemsize)

    def workspace(self, planes: int) -> int:
        return Buffer.empty(self.device, 4 * planes * self.size).address


def run(
    op: Any,
    case: Case,
    device: Device,
    planner: HostDevice,
    forward: Callable[[Rows, Buffer], tuple[str, ctypes.Structure]],
    backward: Callable[[Rows, Buffer], tuple[str, ctypes.Structure]],
    most: int,
) -> Outcome:
    """Both directions against `op`, the op's Python module; hard outputs bit for bit, their scores lying apart."""
    r = Rows(case, device, most)
    out, dscores = r.output(), r.output()
    findings = run_plan(device, planner, *forward(r, out))
    got = out.tensor(r.dtype, r.shape)
    exact, same = op.reference(*r.arguments(torch.float64)), op.reference(*r.arguments(r.dtype))
    if case.hard:
        differ = int((got.double() != exact.round()).sum())
        wrong = [f"out: {differ} of {got.numel()} values differ"] if differ else []
    else:
        wrong = compare("out", got, exact, same)
    results = {"out": got}
    if not case.hard:
        findings += run_plan(device, planner, *backward(r, dscores))
        gradient = dscores.tensor(r.dtype, r.shape)
        by_autograd = []
        for dtype in (torch.float64, r.dtype):
            scores, *rest = r.arguments(dtype)
            leaf = scores.requires_grad_()
            y = op.reference(leaf, *rest) + 0 * leaf  # k 0 leaves no graph
            by_autograd.append(torch.autograd.grad(y, leaf, r.dout.to(dtype))[0])
        wrong += compare("dscores", gradient, *by_autograd, gradient=True)
        results["dscores"] = gradient
    return Outcome(findings, wrong, results)
