# SPDX-License-Identifier: Apache-2.0
"""The table of a benchmark run: `python benchmarks/report.py ops.json`. Losses are marked, not left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

STREAMED = 8.0  # MB of input and output above which a copy is the bar


def row(name: str, info: dict[str, Any]) -> str:
    us = info["microseconds"]
    marks = []
    if info["gain"] < 0.85 * info["bytes_ratio"]:
        marks.append("gain")
    if info["of_compile"] < 0.95:
        marks.append("compile")
    if info["megabytes"] > STREAMED and info["of_copy"] < 0.8:
        marks.append("copy")
    return (
        f"| {name} | {info['megabytes']:.2f} | {us['prestissimo']:.1f} | {us['eager']:.1f} | {us['compile']:.1f} "
        f"| {us['copy']:.1f} | {info['gb_per_s']:.1f} | {info['gain']:.2f} ({info['bytes_ratio']:.0f}) "
        f"| {info['of_compile']:.2f} | {info['of_copy']:.2f} | {'below: ' + ', '.join(marks) if marks else ''} |"
    )


def table(path: Path) -> str:
    data = json.loads(path.read_text(encoding="utf-8"))
    runs = [(b["name"], b["extra_info"]) for b in data["benchmarks"]]
    ops = [(n, i) for n, i in runs if "gain" in i]
    lines = []
    if ops:
        lines += [", ".join(f"{k} {v}" for k, v in ops[0][1]["machine"].items()), ""]
        lines += [
            "Microseconds of the fastest of 30 interleaved rounds. gain: over eager (in brackets: the ratio of bytes "
            "moved); of compile, of copy: their time over ours.",
            "",
            "| op, size, dtype, threads | MB | ours | eager | compile | copy | GB/s | gain | of compile | of copy | |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [row(n.removeprefix("test_op[").removesuffix("]"), i) for n, i in ops]
    path_rows = [
        (b["name"], b["stats"]["min"], b["extra_info"])
        for b in data["benchmarks"]
        if "goal_" in str(b["extra_info"])
    ]
    if path_rows:
        lines += [", ".join(f"{k} {v}" for k, v in path_rows[0][2]["machine"].items()), ""]
        lines += ["| stage | ms | GFLOP | goal | parameters |", "|---|---|---|---|---|"]
    for name, seconds, info in path_rows:
        goal = f"{info['goal_gflop']:.0f} GFLOP" if "goal_gflop" in info else f"{info['goal_ms']:.0f} ms"
        gflop = f"{info['gflop_per_call']:.2f} a call" if "gflop_per_call" in info else ""
        parameters = f"{info['parameters'] / 1e6:.1f} M" if "parameters" in info else ""
        lines += [f"| {name.removeprefix('test_')} | {seconds * 1e3:.0f} | {gflop} | {goal} | {parameters} |"]
    for name, info in runs:
        if "native" in info:
            lines += [
                f"\n{name}: {info['microseconds']:.1f} µs (torch's own addcmul {info['native']:.1f} µs)"
            ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
