# SPDX-License-Identifier: Apache-2.0
"""What came out, as JSON and as a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .schedule import FAILED, NOT_REACHED, PASSED, REFUSED, SKIPPED, Result

MARKS = {PASSED: "pass", FAILED: "FAIL", REFUSED: "no kernel", SKIPPED: "skipped", NOT_REACHED: "not reached"}
NO_CHECK = ("ceiling", "time")
UNITS = {"gb_per_s": "GB/s", "gflop_per_s": "GFLOP/s"}


@dataclass
class Report:
    machine: dict[str, str]
    minutes: float  # the limit
    seconds: float  # what was used
    absent: dict[str, str]  # optional parts that this machine lacks, and why
    results: list[Result]

    @property
    def failed(self) -> list[Result]:
        return [r for r in self.results if r.status == FAILED]

    def rows(self, *what: str) -> list[Result]:
        return [r for r in self.results if r.job.what in what]

    def verdict(self) -> str:
        checks = [r for r in self.results if r.job.what not in NO_CHECK]
        counts = [(MARKS[s], sum(r.status == s for r in checks)) for s in MARKS]
        return ", ".join(f"{n} {mark}" for mark, n in counts if n) or "nothing was checked"

    def markdown(self) -> str:
        lines = [
            f"# Ops on {self.machine['device']}",
            "",
            ", ".join(f"{k} {v}" for k, v in self.machine.items()),
            "",
        ]
        lines += [f"{self.seconds:.0f} s of {60 * self.minutes:.0f} s. Checks: {self.verdict()}.", ""]
        lines += [f"- skipped: {why}" for why in self.absent.values()]
        lines += [""] * bool(self.absent) + self._correctness() + self._failures() + self._timings()
        return "\n".join(lines).rstrip() + "\n"

    def _correctness(self) -> list[str]:
        checks = [r for r in self.results if r.job.what not in NO_CHECK]
        kinds = unique(r.job.what for r in checks)
        table = [["op", *kinds]]
        for op in unique(r.job.op for r in checks):
            cells = [[r.status for r in checks if r.job.op == op and r.job.what == kind] for kind in kinds]
            table.append([op, *map(cell, cells)])
        return ["## Correctness", "", *draw(table), ""] if kinds else []

    def _failures(self) -> list[str]:
        bad = [r for r in self.results if r.status in (FAILED, REFUSED, SKIPPED)]
        if not bad:
            return []
        told = [f"- {r.job.id}, {MARKS[r.status]}: {first_line(r.text)}" for r in bad]
        return ["## What did not pass", "", *told, ""]

    def _timings(self) -> list[str]:
        ceilings = {r.job.op: r.figures for r in self.rows("ceiling") if r.status == PASSED}
        lines = ["## Timings", ""]
        for name, figures in ceilings.items():
            (unit, value), *_ = figures.items()
            lines.append(f"- ceiling, {name}: {value:,.0f} {UNITS[unit]}")
        rows = [r for r in self.rows("time") if r.status == PASSED]
        if not rows:
            return [*lines, ""] if ceilings else []
        table = [["op, size, dtype", "MB", "ours, µs", "eager, µs", "gain (bytes)", "of copy", "of ceiling"]]
        for r in rows:
            f = r.figures
            us = f["microseconds"]
            bound = floor_microseconds(f, ceilings, r.job.detail.rpartition("/")[2])
            table.append([
                f"{r.job.op}, {r.job.detail.replace('/', ', ')}",
                f"{f['bytes'] / 1e6:.2f}",
                f"{us['prestissimo']:.1f}",
                f"{us['eager']:.1f}",
                f"{f['gain']:.2f} ({f['bytes_ratio']:.0f})",
                f"{f['of_copy']:.2f}",
                "" if bound is None else f"{100 * bound / us['prestissimo']:.0f} %",
            ])  # fmt: skip
        note = [
            "",
            "The fastest of interleaved rounds, calls from Python included: below about 20 µs it is the call that is "
            "timed. gain: eager PyTorch's time over ours (in brackets the ratio of bytes moved); of copy: the time of "
            "a copy of as many bytes over ours; of ceiling: the least time that the ceilings above allow for the bytes "
            "and operations, over ours. What fits the L2 cache is read from there. TF32 is off.",
            "",
        ]
        missed = sum(r.status == NOT_REACHED for r in self.rows("time"))
        return lines + note + draw(table) + ([f"\n{missed} rows were not reached."] if missed else [])

    def write(self, folder: Path) -> tuple[Path, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        page, data = folder / "gpu.md", folder / "gpu.json"
        page.write_text(self.markdown(), encoding="utf-8")
        content = {**asdict(self), "results": [{"id": r.job.id, **asdict(r)} for r in self.results]}
        data.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return page, data


def floor_microseconds(figures: dict[str, Any], ceilings: dict[str, Any], dtype: str) -> float | None:
    """The least time that the ceilings allow."""
    if "copy" not in ceilings or dtype not in ceilings:
        return None
    of_bytes = figures["bytes"] / ceilings["copy"]["gb_per_s"] / 1e3
    return max(of_bytes, figures["flops"] / ceilings[dtype]["gflop_per_s"] / 1e3)


def unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def cell(statuses: Sequence[str]) -> str:
    """One status for all dtypes, or how many of each."""
    found = unique(statuses)
    if len(found) <= 1:
        return MARKS[found[0]] if found else ""
    return ", ".join(f"{statuses.count(s)} {MARKS[s]}" for s in found)


def first_line(text: str) -> str:
    return (text.splitlines() or [""])[0][:300]


def draw(table: Sequence[Sequence[str]]) -> list[str]:
    head, *rows = table
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
