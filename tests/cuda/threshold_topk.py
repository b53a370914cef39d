# SPDX-License-Identifier: Apache-2.0
"""The top-k ops with a threshold, and their backward, as cases for the CUDA lanes.

The search for a threshold comes back from most wrong steps, and an output of 16 bits hides the rest: so the thresholds
themselves are checked, and in the PTX lane how often the rows were summed to find them.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from prestissimo.ops.threshold_topk import NO_THRESHOLD

from . import topk_rows
from .cases import Buffer, Outcome
from .devices import Device, HostDevice, PtxDevice
from .topk_rows import DTYPE_CODES, Rows, TopkRows


class Args(ctypes.Structure):
    _fields_ = (
        ("rows", TopkRows),
        ("out", ctypes.c_void_p),
        ("thresholds", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("exponent", ctypes.c_float),
        ("link", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("rows", TopkRows),
        ("dout", ctypes.c_void_p),
        ("thresholds", ctypes.c_void_p),
        ("dscores", ctypes.c_void_p),
        ("exponent", ctypes.c_float),
        ("link", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case(topk_rows.Case):
    """p 0: the sigmoid."""

    p: float = 0.0

    def __str__(self) -> str:
        return f"{super().__str__()}-{f'p{self.p:.2f}' if self.p else 'sigmoid'}"


class Row:
    """One row in float64: z, the scores below its highest by the temperature, and how many are wanted of them."""

    def __init__(self, case: Case, scores: torch.Tensor, wanted: int) -> None:
        self.p, self.scores, self.wanted, self.t = case.p, scores, wanted, case.temperature
        self.n = len(scores)

    @property
    def searched(self) -> bool:
        return 0 < self.wanted < self.n

    def sums(self, u: torch.Tensor) -> tuple[float, float]:
        """Of the outputs at u, and of their slopes."""
        value, slope = self.link(u)
        return value.sum().item(), slope.sum().item()

    def link(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.p:
            return u.sigmoid(), u.sigmoid() * (-u).sigmoid()
        q, c = 1 / (self.p - 1), u.clamp(0, 1)
        return c**q, torch.where((u > 2e-6) & (u < 1 - 2e-6), q * c ** (q - 1), 0)

    def wrong(self, shift: float, rest: float, approximate: bool) -> str:
        """Empty where outputs sum to what is wanted, but for roundings of u and, where they are flat, of one output."""
        if not self.n:
            return ""
        if not self.searched:
            none = NO_THRESHOLD if self.wanted <= 0 else -NO_THRESHOLD
            return "" if shift == torch.tensor(none).item() else f"shift {shift:g}, not {none:g}"
        u = (self.scores - shift) / self.t - rest
        value, slope = self.link(u)
        off = abs(value.sum().item() - self.wanted)
        one, each = (self.wanted * 2**-20, 2**-20) if approximate else (2**-23, 2**-21)
        allowed = one + each * (slope * (1 + u.abs())).sum().item()
        return f"off by {off:.2e} of {self.wanted}, {allowed:.2e} allowed" if off > allowed else ""

    def evaluations(self) -> int:
        """How often csrc/threshold_solver.h sums the row."""
        k, n = self.wanted, self.n
        z = (self.scores - self.scores.max()) / self.t
        low = math.log(k / (n - k)) if not self.p else 0.0
        high = (low if not self.p else 1.0) - z.min().item()
        b, last, count = (low + high) / 2, high - low, 0
        while count < 64 and last > 1e-3:
            value, slope = self.sums(z + b)
            count += 1
            if abs(value - k) <= 1.5e-8:
                break
            low, high = (b, high) if value < k else (low, b)
            step = _over(k - value, slope)
            if not self.p and 0 < value < n and abs(x := (value - k) * n / (value * (n - k))) > 0.01:
                step = math.log1p(-x) * value / n * (n - value) / slope
            if abs(step) <= 1e-3:
                b += step
                break
            near = low < b + step < high and abs(step) < last / 2
            following = b + step if near else (low + high) / 2
            b, last = following, abs(following - b)
        d = 0.0
        for _ in range(4 if self.p else 2):
            value, slope = self.sums(z + b - d)
            count += 1
            step = _over(value - k, slope)
            if not abs(step) <= 2e-3:
                break
            d += step
        return count


def _over(a: float, b: float) -> float:
    return a / b if b else math.nan if a == 0 else math.copysign(math.inf, a)


def _shuffles(device: PtxDevice) -> int:
    """Of the forward kernels so far, by thread."""
    count = 0
    for kernel, executed in device.machine.statistics.executed.items():
        if "backward" not in kernel:
            code = device.machine.module.kernel(kernel).instructions
            count += sum(int(n) for i, n in zip(code, executed, strict=True) if i.text.startswith("shfl."))
    return count


def _expected_shuffles(case: Case, rows: list[Row], selected: list[int], size: int) -> tuple[int, int]:
    """Two maxima, a sum of two, one of three for every evaluation, and one for every bit of three words where a row is
    selected from; and how many more or fewer rounding may make of it: those of one evaluation."""
    average = math.ceil(size / len(rows))
    threads = min(max(math.ceil(average / 64) * 32, 32), 512)  # threshold_topk_plan
    each = threads * (1 if threads == 32 else 2)
    count = 0
    for row, chosen in zip(rows, selected, strict=True):
        count += 0 if row.wanted <= 0 else 20 + 15 * row.evaluations() if row.searched else 20
        count += 3 * 32 * 5 if case.hard and 0 < chosen < row.n else 0
    return each * count, 15 * each * (2 if case.equal else 1)


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    module: Any = importlib.import_module(f"prestissimo.ops.{'sparse' if case.p else 'sigmoid'}_topk")
    p = (case.p,) if case.p else ()
    link = (1 / (case.p - 1) if case.p else 1.0, 1 if case.p else 0)
    kept: list[tuple[Rows, Buffer]] = []
    before = _shuffles(device) if isinstance(device, PtxDevice) else 0

    def forward(r: Rows, out: Buffer) -> tuple[str, ctypes.Structure]:
        kept.append((r, Buffer.empty(device, 8 * r.count)))
        return "threshold_topk", Args(r.structure(), out.address, kept[0][1].address, r.workspace(2), *link)

    def backward(r: Rows, dscores: Buffer) -> tuple[str, ctypes.Structure]:
        dout = r.input(r.dout.to(r.dtype))
        return "threshold_topk_backward", BackwardArgs(
            r.structure(), dout, kept[0][1].address, dscores.address, *link
        )

    def reference(*arguments: Any) -> torch.Tensor:
        return module.reference(*arguments, *p)[0]

    outcome = topk_rows.run(
        SimpleNamespace(reference=reference), case, device, planner, forward, backward, module.MOST
    )
    ((r, thresholds),) = kept
    scores = r.scores if r.noise is None else r.scores + r.noise
    counts = [r.k] * r.count if r.counts is None else r.counts.tolist()
    rows = [Row(case, v, k) for v, k in zip(r.each(scores), counts, strict=True)]
    found = thresholds.tensor(torch.float32, (r.count, 2)).tolist()
    # powers as far off as hardware may have them
    approximate = isinstance(device, PtxDevice) and bool(device.machine.options.approximate)
    for i, (row, (shift, rest)) in enumerate(zip(rows, found, strict=True)):
        if wrong := row.wrong(shift, rest, approximate):
            outcome.wrong.append(f"threshold of row {i}: {wrong}")
    # with those some of Newton's steps turn into halvings
    if isinstance(device, PtxDevice) and not approximate:
        selected = list(case.slots) or [case.selected if case.selected >= 0 else n for n in counts]
        took = _shuffles(device) - before
        expected, slack = _expected_shuffles(case, rows, selected, r.size)
        if abs(took - expected) > slack:
            outcome.wrong.append(f"the search took {took} shuffles, not {expected}")
    return outcome


_ONSETS = (3, 1, 0, 2, 33, 7, 1, 1, 32, 2, 0)
_EACH = (2, 3, 1, 0, 5, 2, 1, 4, 3, 6, 2)
_LONG = (300, *(1,) * 15)
_ANY = (70, 150, 1, 3, 7, 16, 31, 48, 64, 80, 96, 112, 120, 127)
CASES = [
    Case(_ONSETS, _EACH, noise=True),
    Case(_ONSETS, _EACH, "bfloat16", p=2.0),
    Case(_ONSETS, 2, "float16", p=4 / 3, temperature=0.5),
    Case(_ONSETS, _EACH, hard=True, slots=(1, 2, 0, 1, 4, 2, 0, 3, 2, 1, 1)),
    Case(_ONSETS, 2, hard=True, selected=1, p=2.0, noise=True),
    Case(_LONG, 9, temperature=0.3, noise=True),
    Case(_LONG, 100, "bfloat16", noise=True, still=True),
    Case(_LONG, 31, "float16", temperature=2.0, noise=True, still=True),
    Case(_LONG, 9, p=4 / 3, noise=True),
    Case(_LONG, 90, p=1.6, noise=True),
    Case(_LONG, 90, "bfloat16", p=1.5, noise=True, still=True),
    Case(_LONG, 60, "float16", p=1.8, temperature=0.5, noise=True, still=True),
    Case(_LONG, 60, "float16", hard=True, selected=50, p=1.5, noise=True),
    # all but one of scores that reach further down than up: the bracket must begin at the lowest of all warps
    *(Case(130, 129, dtype, rows=4, spread=30.0, p=p) for dtype in DTYPE_CODES for p in (0.0, 1.5)),
    # so many values of 1 that their sum holds too few digits of the rest
    Case(300, 299, rows=4, temperature=0.7, spread=30.0),
    # the lowest score in each place that a thread may hold it, and at the end of those that none holds
    *(
        Case(
            (20, 60, 90, 120, 300, *(1,) * 25),
            (19, 59, 89, 119, 299, *(1,) * 25),
            *(dtype, 1, 0.5, 10.0),
            falling=True,
            p=p,
        )
        for dtype in DTYPE_CODES
        for p in (0.0, 1.5)
    ),
    # scores between the bounds in each place that a thread may hold them, the highest in any of those
    *(
        Case((300, 200, *(128,) * 12, *(1,) * 18), (*_ANY, *(0,) * 18), dtype, temperature=0.35, p=p)
        for dtype in DTYPE_CODES
        for p in (
            0.0,
            1.6,
        )  # where Newton's steps on u^q never halve one another, which rounding would decide
    ),
    # a threshold that its first part alone misses by 6e-5 of u, seen by scores in all places
    *(Case(_LONG, 100, temperature=2.0, mean=3000.0, p=p) for p in (0.0, 1.5, 2.0)),
    # zeros of both signs on either side of the last that is taken, in one warp and in several
    *(
        Case(lengths, 5, dtype, 1, hard=True, selected=selected, mean=mean, levels=True, p=p)
        for dtype in DTYPE_CODES
        for p in (0.0, 1.5)
        for lengths, selected, mean in ((_LONG, 230, 1.5), (130, 40, -1.0))
    ),
    # bits of every weight in the scores that are selected from, and ties that places decide
    *(
        Case((60,) * 12, 5, dtype, hard=True, selected=20, noise=noise, levels=not noise, p=p)
        for dtype in DTYPE_CODES
        for p in (0.0, 1.6)
        for noise in (True, False)
    ),
    # scores so large that the threshold's rounding shows; no gradient into a row
    *(Case(_LONG, 9, d, 1, 0.2, mean=300.0, still=True, p=p) for d in DTYPE_CODES for p in (0.0, 1.5)),
    Case(1, 1, rows=3),
    Case(5, 4, rows=3, spread=60.0),
    Case(65, 13, rows=2, spread=30.0, p=2.0),
    Case(130, 3, rows=2, p=1.1),
    Case(600, 60, noise=True),
    Case(600, 60, p=2.0, temperature=0.2),
    Case(20, 2, rows=2, equal=True),
    Case(7, 0, rows=2),
    Case(7, 7, rows=2, p=2.0),
]
