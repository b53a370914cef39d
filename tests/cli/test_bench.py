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
        (["bench", "decode", "--plot", "a.png"], "of ops, not of decode"),
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
    import report

    row = {
        "name": "test_op[some_op-size-float32-1t]",
        "gain": 2.0,
        "bytes_ratio": 3.0,
        "of_compile": 0.9,
        "megabytes": 9.0,
        "of_copy": 0.7,
        "gb_per_s": 1.0,
        "microseconds": {"prestissimo": 1.0, "eager": 2.0, "compile": 0.9, "copy": 0.7},
    }
    assert report.below(row) == ["gain", "compile", "copy"]
    assert "below: gain, compile, copy" in report.table([row])
    fine = {**row, "gain": 2.6, "of_compile": 0.95, "of_copy": 0.8}
    assert report.below(fine) == []
    assert "below" not in report.table([fine])


def test_the_document_is_that_of_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = Path(__file__).parents[2] / "docs"
    if not (docs / "performance").is_dir():
        pytest.skip("no docs beside the tests")
    monkeypatch.setattr(sys, "path", [str(_folder()), *sys.path])
    import report

    assert (docs / "performance.md").read_text(encoding="utf-8") == report.document(docs / "performance")
