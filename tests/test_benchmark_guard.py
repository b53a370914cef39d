# SPDX-License-Identifier: Apache-2.0
"""The guard against ops that grow slow (benchmarks/bench_guard.py) measures ratios, and fails where one has grown."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prestissimo.cli.bench import _folder, without_pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("prestissimo._core")


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_folder()))
    return importlib.import_module("bench_guard")


def spin(milliseconds: float) -> None:
    end = time.thread_time() + 1e-3 * milliseconds
    while time.thread_time() < end:
        pass


def test_the_ratio_is_that_of_the_fastest_turns(guard: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECONDS", 0.05)
    slow = iter([0.0, 3.0])  # a hiccup in one turn changes nothing
    ratio = guard.ratio(lambda: spin(1.0 + next(slow, 0.0)), lambda: (spin(2.0), time.sleep(0.001)))
    assert 0.45 < ratio < 0.55


def test_every_op_has_a_row(guard: ModuleType) -> None:
    from prestissimo.ops.cases import CASES

    assert {row.values[0].name for row in guard.guarded()} == {case.name for case in CASES}


def test_a_baseline_is_the_median_run(guard: ModuleType) -> None:
    def run(*values: float) -> dict[str, Any]:
        return {
            "benchmarks": [
                {"name": n, "fullname": f"f::{n}", "stats": {"min": v, "data": [v]}, "extra_info": {}}
                for n, v in zip("ab", values, strict=False)
            ]
        }

    made = guard.baseline([run(3.0, 0.2), run(1.0, 0.123456), run(2.0)])
    assert {r["name"]: r["stats"] for r in made["benchmarks"]} == {"a": {"min": 2.0}, "b": {"min": 0.1235}}


def test_an_op_that_has_grown_slow_fails(tmp_path: Path) -> None:
    """A process of pytest, because the comparison is pytest-benchmark's: one row, said to have been a hundred times as
    fast."""
    (committed, *_) = sorted((_folder() / "baseline").glob("*.json"))
    data = json.loads(committed.read_text())
    for row in data["benchmarks"]:
        row["stats"] |= {k: v / 100 for k, v in row["stats"].items() if isinstance(v, float)}
    planted = tmp_path / "baseline.json"
    planted.write_text(json.dumps(data))
    options = "-q -k swiglu -p no:cacheprovider -o addopts= -o filterwarnings= --benchmark-quiet"
    compare = [f"--benchmark-compare={planted}", "--benchmark-compare-fail=min:60%"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "benchmarks/bench_guard.py",
            "--rootdir=.",
            *options.split(),
            *compare,
        ],
        capture_output=True,
        text=True,
        cwd=_folder().parent,
        env=without_pytest(os.environ),
    )
    assert done.returncode != 0
    assert "has regressed" in done.stdout + done.stderr
    assert "swiglu" in done.stdout + done.stderr
