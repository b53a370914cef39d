# SPDX-License-Identifier: Apache-2.0
"""A roofline picture of ops, blocks or stages: operations per second over operations per byte, under the ceilings.

python benchmarks/roofline.py ops.json -o roofline.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from goals import Row, below, op_of
from report import rows_of


def _seconds(row: Row) -> float:
    """The fastest round of those taken in turn with rivals, where there are any."""
    return float(row["microseconds"]["prestissimo"] / 1e6 if "microseconds" in row else row["fastest_s"])


def draw(rows: list[Row]) -> Any:
    """The figure: one panel per number of threads, a dot per op or stage, size and dtype, a cross below a goal.
    Raises ValueError where the rows hold no op or no ceiling."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ops = [row for row in rows if row.get("flops") and row.get("bytes")]
    ceilings = [row for row in rows if "ceiling_gflop_per_s" in row]
    if not ops or not ceilings:
        raise ValueError("rows must hold operations, bytes and ceilings: leave test_ceiling in the selection")
    threads = sorted({row["threads"] for row in ops})
    figure = Figure(figsize=(7 * len(threads), 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(threads), sharey=True))
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(map(op_of, ops)))}
    for panel, count in zip(panels, threads, strict=True):
        here = [row for row in ceilings if row["threads"] == count]
        bandwidth = max((row["copy_gb_per_s"] for row in here), default=0)
        x = np.geomspace(0.05, 1e3, 200)
        for row in here:
            panel.plot(x, np.minimum(x * bandwidth, row["ceiling_gflop_per_s"]), lw=1, color="0.6")
            panel.annotate(row["dtype"], (300, row["ceiling_gflop_per_s"] * 1.05), fontsize=8, color="0.4")
        for row in (row for row in ops if row["threads"] == count):
            name = op_of(row)
            panel.plot(
                row["flops"] / row["bytes"],
                row["flops"] / _seconds(row) / 1e9,
                "x" if below(row) else ("o" if row["dtype"] == "float32" else "s"),
                color=colours[name],
                ms=5,
                label=name,
            )
        panel.set(
            xscale="log",
            yscale="log",
            xlabel="operations per byte",
            title=f"{count} threads, cross: below a goal",
        )
        handles = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        panel.legend(handles.values(), handles.keys(), fontsize=7, loc="lower right")
    panels[0].set_ylabel("G operations per second")
    machine = ", ".join(f"{k} {v}" for k, v in ops[0]["machine"].items())
    figure.suptitle(f"{machine}; line: copy of 64 MB and oneDNN's prepacked product", fontsize=8)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("roofline.png"))
    options = parser.parse_args()
    draw(rows_of(options.file)).savefig(options.output)
