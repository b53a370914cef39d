# SPDX-License-Identifier: Apache-2.0
"""`prestissimo bench`: figures as rows, tables that mark losses, errors before anything is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from prestissimo.cli import run
from prestissimo.cli.bench import _folder

pytest.importorskip("pytest_benchmark")
pytest.importorskip("prestissimo._core")


def test_rows_are_kept_and_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "figures.json"
    assert run(["bench", "ops", "-k", "overhead and recording", "--json", "-o", str(kept)]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows == json.loads(kept.read_text())
    assert [row["name"] for row in rows] == ["test_call_overhead[recording]"]
    assert 0 < rows[0]["microseconds"] < 1e6
    assert run(["bench", "-k", "overhead", "-o", str(kept)]) == 2
    assert "--overwrite" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "ops", "-o", "no/such/folder/a.json"], "no/such/folder"),
        (["bench", "ops", "-k", "no_such_row"], "no_such_row"),
    ],
)
def test_errors_name_the_argument(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) != 0
    assert words in capfd.readouterr().err.splitlines()[-1]


def test_a_loss_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(_folder()), *sys.path])
    import goals
    import tables

    row = {
        "name": "test_op[swiglu-size-float32-1t]",
        "gain": 2.0,
        "bytes_ratio": 3.0,
        "of_compile": 0.9,
        "megabytes": 9.0,
        "of_copy": 0.7,
        "gb_per_s": 1.0,
        "microseconds": {"prestissimo": 1.0, "eager": 2.0, "compile": 0.9, "copy": 0.7},
    }
    assert goals.below(row) == ["gain", "compile", "copy"]
    marked = "**below:** gain 2.00 < 2.55, compile 0.90 < 0.95, copy 0.70 < 0.80"
    assert marked in tables.table([row])
    fine = {**row, "gain": 2.6, "of_compile": 0.95, "of_copy": 0.8}
    assert goals.below(fine) == []
    assert "below" not in tables.table([fine])
    slow, fast = {**row, "threads": 1}, {**fine, "threads": 2, "name": "test_op[swiglu-size-float32-2t]"}
    lines = tables.table([slow, fast]).splitlines()
    (line,) = (line for line in lines if line.startswith("| swiglu-size-float32 |"))
    assert "2.00 (3.0) / 2.60 (3.0)" in line
    assert any(line.startswith("| op, size, dtype; 1 / 2 threads |") for line in lines)
    assert line.endswith("copy 0.70 < 0.80 on 1 |")
    assert "1 of 2 rows with a goal miss one: swiglu 1." in lines


def test_a_roofline_has_a_panel_per_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "path", [str(_folder()), *sys.path])
    import roofline

    rows = []
    for threads in (1, 2):
        block = {
            "flops": 1e9,
            "bytes": 1e6,
            "microseconds": {"prestissimo": 9e3},
            "dtype": "int8",
            "machine": {},
        }
        block |= {"of_ceiling": 0.5, "goal_of_ceiling": 0.6, "threads": threads}
        rows += [{"name": f"test_block[open-1.0-int8-{threads}t]", "op": "dit_block", **block}]
        stage = {k: v for k, v in block.items() if k != "microseconds"} | {"flops": 1e8, "fastest_s": 0.01}
        rows += [{"name": "test_codec[kernels]", **stage}]
        ceiling = {"ceiling_gflop_per_s": 200.0, "copy_gb_per_s": 20.0, "dtype": "int8", "threads": threads}
        rows += [{"name": f"test_ceiling[int8-{threads}t]", **ceiling}]
    panels = roofline.draw(rows).axes
    assert [panel.get_title() for panel in panels] == [f"{n} threads, cross: below a goal" for n in (1, 2)]
    for panel in panels:
        line, dot, stage = panel.lines
        assert (max(line.get_ydata()), *dot.get_ydata()) == pytest.approx((200.0, 1e9 / 9e3 / 1e3))
        assert (dot.get_marker(), stage.get_marker()) == ("x", "s")
        assert stage.get_ydata()[0] == pytest.approx(10.0)
    with pytest.raises(ValueError, match="ceilings"):
        roofline.draw(rows[:1])


def test_the_document_is_that_of_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = Path(__file__).parents[2] / "docs"
    if not (docs / "performance").is_dir():
        pytest.skip("no docs beside the tests")
    monkeypatch.setattr(sys, "path", [str(_folder()), *sys.path])
    import report

    assert (docs / "performance.md").read_text(encoding="utf-8") == report.document(docs / "performance")
