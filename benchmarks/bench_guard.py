# SPDX-License-Identifier: Apache-2.0
"""A guard against ops that grow slow: our time over eager PyTorch's, one thread, against a committed baseline.

    .ci/guard                                                       # what CI runs
    for i in 1 2 3; do pytest benchmarks/bench_guard.py --benchmark-json=run$i.json; done
    python benchmarks/bench_guard.py run?.json > benchmarks/baseline/avx512_bf16-family25.json     # a new baseline

Ratios and not times, because machines differ and drift: the two take turns, the fastest turn of each counts, and the
clock that pytest-benchmark reads here shows their ratio, so that its comparison (`--benchmark-compare-fail`) is one of
ratios. Time is the thread's own, which a neighbour on the same core does not lengthen. What the ratio is still depends
on the processor: there is one baseline for each instruction set and family of processors.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interleave import machine

from prestissimo import ops
from prestissimo.ops.cases import CASES, OpCase, Shape

# Of a row: seconds of a turn, turns at least, seconds of all turns, about.
TURN, TURNS, SECONDS = 0.0007, 5, 0.2
FLOPS, BYTES = 150e6, 16e6  # above these a real size takes too long here


class Clock:
    """Stands still but for what is added to it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


clock = Clock()


def guarded() -> list[Any]:
    """For every op and dtype the smallest real size, or the largest of the tests' where that takes too long.

    A row is called by its case and shape: one that is changed is another row, and has no baseline yet.
    """
    rows = {}
    for case in CASES:
        sizes = [
            (case.bytes_moved(shape, 4), shape)
            for shape in case.real.values()
            if case.flops(shape) <= FLOPS and case.bytes_moved(shape, 4) <= BYTES
        ]
        largest = max(case.small, key=lambda shape: torch.Size(shape).numel())
        _, shape = min(sizes, default=(0, largest))
        for dtype in case.dtypes:
            if dtype != torch.float16 and (case.name, dtype) not in rows:
                id = f"{case.id}-{'x'.join(map(str, shape))}-{str(dtype)[6:]}"
                rows[case.name, dtype] = pytest.param(case, shape, dtype, id=id)
    return list(rows.values())


def ratio(ours: Callable[[], Any], eager: Callable[[], Any]) -> float:
    """The fastest turn of ours over the fastest of eager's."""
    repeats = []
    for run in (ours, eager):
        run()
        begun = time.thread_time()
        run()
        repeats.append(max(1, round(TURN / max(time.thread_time() - begun, 1e-7))))
    fastest, turns, end = [float("inf")] * 2, 0, time.perf_counter() + SECONDS
    while turns < TURNS or time.perf_counter() < end:
        turns += 1
        for k, run in enumerate((ours, eager)):
            begun = time.thread_time()
            for _ in range(repeats[k]):
                run()
            fastest[k] = min(fastest[k], (time.thread_time() - begun) / repeats[k])
    return fastest[0] / fastest[1]


@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize(("case", "shape", "dtype"), guarded())
def test_ratio(benchmark: Any, case: OpCase, shape: Shape, dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), ops.strict_kernels():
            arguments = case.make(shape, dtype, torch.Generator().manual_seed(0))
            eager = case.baseline(arguments) if case.baseline else lambda: case.reference(**arguments)

            def show() -> None:
                clock.now += ratio(lambda: case.op(**arguments), eager)

            benchmark.pedantic(show)
    finally:
        torch.set_num_threads(before)


def baseline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """For every row the run whose ratio is the median, in pytest-benchmark's form."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for row in run["benchmarks"]:
            kept = {k: row[k] for k in ("name", "fullname")}
            stats = {
                k: float(f"{v:.4g}") if isinstance(v, float) else v
                for k, v in row["stats"].items()
                if k != "data"
            }
            rows.setdefault(row["fullname"], []).append(kept | {"stats": stats})
    middle = statistics.median_low
    chosen = [
        next(r for r in found if r["stats"]["min"] == middle([f["stats"]["min"] for f in found]))
        for found in rows.values()
    ]
    return {"machine_info": machine(), "benchmarks": chosen}


if __name__ == "__main__":
    made = baseline([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]])
    lines = ",\n".join(json.dumps(row) for row in made["benchmarks"])
    print(f'{{"machine_info": {json.dumps(made["machine_info"])}, "benchmarks": [\n{lines}\n]}}')
