# SPDX-License-Identifier: Apache-2.0
"""Tables of benchmark runs, losses marked and not left out.

python benchmarks/report.py ops.json path.json > tables.md
python benchmarks/report.py ops.json path.json --keep docs/performance/zen4.json    # the figures without the noise
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

STREAMED = 8.0  # MB of input and output above which a copy is the bar
Row = dict[str, Any]  # name, fastest_s and what the benchmark itself noted


def rows_of(path: Path) -> list[Row]:
    """The rows of a pytest-benchmark file, or of one that `--keep` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, list):
        return data
    return [
        {"name": b["name"], "fastest_s": b["stats"]["min"], **b["extra_info"]} for b in data["benchmarks"]
    ]


def below(row: Row) -> list[str]:
    """The goals that an op's row misses."""
    marks = []
    if row["gain"] < 0.85 * row["bytes_ratio"]:
        marks.append("gain")
    if row["of_compile"] < 0.95:
        marks.append("compile")
    if row["megabytes"] > STREAMED and row["of_copy"] < 0.8:
        marks.append("copy")
    return marks


def op_row(row: Row) -> str:
    us = row["microseconds"]
    marks = below(row)
    name = row["name"].removeprefix("test_op[").removesuffix("]")
    return (
        f"| {name} | {row['megabytes']:.2f} | {us['prestissimo']:.1f} | {us['eager']:.1f} | {us['compile']:.1f} "
        f"| {us['copy']:.1f} | {row['gb_per_s']:.1f} | {row['gain']:.2f} ({row['bytes_ratio']:.0f}) "
        f"| {row['of_compile']:.2f} | {row['of_copy']:.2f} | {'below: ' + ', '.join(marks) if marks else ''} |"
    )


def stage_row(row: Row) -> str:
    work = row.get("gflop_per_call", row.get("gflop"))
    goal = f"{row['goal_gflop']:.0f} GFLOP" if "goal_gflop" in row else ""
    cells = [
        row["name"].removeprefix("test_") + (f", {row['calls']} calls" if "calls" in row else ""),
        f"{row['fastest_s'] * 1e3:.1f}",
        "" if work is None else f"{work:.2f}",
        f"{row['goal_ms']:.0f} ms" if "goal_ms" in row else goal,
        f"{row['x_real_time']:.0f}" if "x_real_time" in row else "",
        f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "",
    ]
    return f"| {' | '.join(cells)} |"


def table(rows: list[Row]) -> str:
    machines = {", ".join(f"{k} {v}" for k, v in row["machine"].items()) for row in rows if "machine" in row}
    lines = [*sorted(machines), ""]
    if ops := [row for row in rows if "gain" in row]:
        lines += [
            "Microseconds of the fastest of 30 interleaved rounds. gain: over eager (in brackets: the ratio of bytes "
            "moved); of compile, of copy: their time over ours.",
            "",
            "| op, size, dtype, threads | MB | ours | eager | compile | copy | GB/s | gain | of compile | of copy | |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *map(op_row, ops),
            "",
        ]
    if ceilings := [row for row in rows if "ceiling_gflop_per_s" in row]:
        lines += [
            "| ceiling of the run | threads | oneDNN prepacked, 2048³, G(FL)OP/s | copy of 64 MB, GB/s |",
            "|---|---|---|---|",
            *(
                f"| {row['dtype']} | {row['threads']} | {row['ceiling_gflop_per_s']:.0f} | {row['copy_gb_per_s']:.1f} |"
                for row in ceilings
            ),
            "",
        ]
    if stages := [row for row in rows if {"goal_gflop", "goal_ms", "gflop"} & row.keys()]:
        lines += [
            "| stage, 32 s of stereo | ms | GFLOP a call | goal | × real time | parameters |",
            "|---|---|---|---|---|---|",
            *map(stage_row, stages),
            "",
        ]
    for row in rows:
        if "native" in row:
            ours, native = row["microseconds"], row["native"]
            lines += [f"{row['name']}: {ours:.1f} µs (torch's own addcmul {native:.1f} µs)", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--keep", type=Path, help="write the figures here, to be committed")
    options = parser.parse_args()
    everything = [row for path in options.files for row in rows_of(path)]
    if options.keep:
        options.keep.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in everything)
        options.keep.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(table(everything))
