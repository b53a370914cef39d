# SPDX-License-Identifier: Apache-2.0
"""`prestissimo demo`: a page that works from the disk, keeps finished pieces and escapes what users write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prestissimo import audio
from prestissimo.cli import run

pytest.importorskip("matplotlib")


@pytest.fixture
def demo(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Runs it with two prompts in an empty folder; returns its exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("calm <b>piano</b>\nfast techno\n")

    def call(*arguments: str) -> tuple[int, str]:
        line = [
            "demo",
            "-o",
            "page",
            "--model",
            str(tiny_model),
            "--prompts",
            "prompts.txt",
            "--seconds",
            "1",
        ]
        code = run([*line, *arguments])
        return code, capsys.readouterr().err

    return call


def test_the_page_names_files_that_are_there(demo) -> None:
    assert demo()[0] == 0
    page = Path("page/index.html").read_text()
    sources = re.findall(r'src="([^"]+)"', page)
    assert sorted(Path(s).suffix for s in sources) == [".mp3", ".mp3", ".png", ".png"]
    assert all((Path("page") / s).stat().st_size > 1000 for s in sources)
    assert audio.read(next(Path("page").glob("*.mp3"))).shape[0] == 2
    assert "calm &lt;b&gt;piano&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "seed 1," in page
    assert "seed 2," in page


def test_finished_pieces_are_kept(demo) -> None:
    assert demo()[0] == 0
    pieces = sorted(Path("page").glob("*.mp3"))
    before = [p.stat().st_mtime_ns for p in pieces]
    Path("page/index.html").unlink()
    pieces[1].unlink()
    code, err = demo()
    assert code == 0
    assert err.count("made in") == 1
    assert pieces[0].stat().st_mtime_ns == before[0]
    assert pieces[1].exists()


def test_a_page_is_not_written_over(demo) -> None:
    assert demo()[0] == 0
    code, err = demo()
    assert code != 0
    assert "--overwrite" in err
    assert demo("--overwrite")[0] == 0


def test_a_wrong_evaluation_is_named(demo) -> None:
    Path("report.json").write_text('{"tags": 3}')
    code, err = demo("--evaluation", "report.json")
    assert code == 2
    assert "report.json" in err
    assert not Path("page").exists()
