# SPDX-License-Identifier: Apache-2.0
"""`prestissimo train`, from a small data set to a folder that generates, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import prestissimo
from prestissimo.cli import run
from prestissimo.data import FeatureWriter
from prestissimo.data.analysis import Measures
from prestissimo.data.attributes import TAGS, WindowAttributes, write_windows
from prestissimo.models.config import read_model_config
from prestissimo.training.state import read_progress

FRAMES = 80
MEASURES = Measures(-20.0, 1500.0, 2.0, -8.0, -6.0, 120.0, 0.4, 9, 0.5)

DIT = """
output = "runs/dit"
[model]
latent_channels = 8
width = 32
depth = 2
heads = 2
ff_inner = 64
text_dim = 16
features = 16
[lengths]
frames = [16, 32]
weights = [0.5, 0.5]
tokens = 64
[loop]
steps = 2
validate_every = 2
"""

CODEC = """
data = "data"
output = "runs/codec"
batch = 1
frames = 16
[codec]
channels = 8
phase_rounds = 1
[codec.magnet]
width = 16
blocks = 1
[loop]
steps = 1
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a built data set of three tracks, their attributes, and configurations."""
    place = tmp_path_factory.mktemp("place")
    writer = FeatureWriter(place / "data")
    rng = np.random.default_rng(0)
    for name, split in (("a", "train"), ("b", "train"), ("c", "heldout")):
        audio = rng.normal(0, 0.1, (FRAMES * 4096, 2)).astype(np.float32)
        facts = {"package": "p", "title": name, "author": "a", "licence": "MIT", "genre": ""}
        writer.add(audio, 0.0, id=f"p/{name}", split=split, **facts)
    writer.publish()
    (place / "windows").mkdir()
    tag = ((TAGS.index("piano"), 0.8),)
    write_windows([WindowAttributes(f"p/{n}", 0, MEASURES, tag) for n in "abc"], place / "windows" / "p.tsv")
    (place / "dit.toml").write_text(DIT)
    (place / "codec.toml").write_text(CODEC)
    return place


@pytest.fixture(autouse=True)
def inside(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def train_dit(tiny_model: Path, *arguments: str) -> int:
    common = ("--windows", "windows", "--base", str(tiny_model), "--threads", "1", "-q")
    return run(["train", "dit", "-c", "dit.toml", *common, *arguments])  # the last -c counts


def test_from_a_data_set_to_music(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], workplace: Path
) -> None:
    codec = ("--init", str(tiny_model / "codec.safetensors"), "--threads", "1", "-q")
    assert run(["train", "codec", "-c", "codec.toml", *codec]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip() == "runs/codec/codec.safetensors"
    index = json.loads(Path("data/latents_index.json").read_text())
    assert [t["frames"] for t in index["tracks"]] == [FRAMES] * 3

    more = ("--data", "data", "--codec", "runs/codec/codec.safetensors", "--export", "mine")
    assert train_dit(tiny_model, *more) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip() == "mine"
    assert read_progress(Path("runs/dit/state.safetensors"))["step"] == 2
    assert Path("mine/codec.safetensors").read_bytes() == Path("runs/codec/codec.safetensors").read_bytes()
    assert prestissimo.load("mine")("calm piano", seconds=0.5, seed=1).shape == (2, 22050)

    before = read_model_config("mine")
    assert train_dit(tiny_model, "--data", "data", "--steps", "3") == 0, capsys.readouterr().err
    assert read_progress(Path("runs/dit/state.safetensors"))["step"] == 3
    assert run(["train", "export", "runs/dit", "mine", "--name", "longer"]) == 0, capsys.readouterr().err
    after = read_model_config("mine")
    assert (before.name, after.name) == ("mine", "longer")
    assert before.sha256["dit"] != after.sha256["dit"]
    assert before.sha256["text"] == after.sha256["text"]

    start = ("--data", "data", "--out", "runs/second", "--init", "mine")
    assert train_dit(tiny_model, *start) == 0, capsys.readouterr().err
    assert read_progress(Path("runs/second/state.safetensors"))["step"] == 2

    conditions = 'conditions = ["sigma", "seconds", "tempo", "beats"]'
    in_time = DIT.replace("[model]", f"[model]\n{conditions}")
    for i, begin in enumerate(("mine", "runs/dit")):  # whose weights know no tempo
        Path("timed.toml").write_text(in_time.replace("runs/dit", f"runs/timed{i}"))
        timed = ("-c", "timed.toml", "--data", "data", "--init", begin, "--export", "timed")
        assert train_dit(tiny_model, *timed) == 0, capsys.readouterr().err
    assert prestissimo.load("timed")("calm piano", seconds=0.5, seed=1, bpm=90).shape == (2, 22050)

    assert prestissimo.load("timed").tempo_prior is None
    learn = ["train", "tempo", "mine", "--data", "data", "--windows", "windows"]
    assert run(learn) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip().endswith("mine/tempo.json")
    assert run(["train", "export", "runs/timed0", "drawn", "--base", "mine"]) == 0, capsys.readouterr().err
    drawn = prestissimo.load("drawn").tempo_prior
    assert drawn is not None
    assert 119 <= drawn.draw("calm piano", 1) <= 121, "all of this music has 120 beats per minute"
    assert run([*learn[:2], "runs/dit", *learn[3:]]) != 0
    assert "not a model folder" in capsys.readouterr().err

    Path("third.toml").write_text('init = "runs/dit"\n' + DIT.replace("runs/dit", "runs/third"))
    assert train_dit(tiny_model, "-c", "third.toml", "--data", "data") == 0, capsys.readouterr().err
    assert read_progress(Path("runs/third/state.safetensors"))["step"] == 2
    Path("third.toml").write_text(Path("third.toml").read_text().replace("runs/dit", "runs/gone"))
    more = ("-c", "third.toml", "--data", "data", "--steps", "3")
    assert train_dit(tiny_model, *more) == 0, "a run that has begun needs no start"
    assert train_dit(tiny_model, *more, "--out", "runs/fourth") == 2
    assert "runs/gone" in capsys.readouterr().err


def test_errors_are_one_line_and_name_what_is_wrong(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def error(*arguments: str) -> str:
        assert train_dit(tiny_model, *arguments) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1, text
        return text

    def toml(name: str, old: str, new: str) -> str:
        (tmp_path / name).write_text(DIT.replace(old, new))
        return str(tmp_path / name)

    assert "prestissimo data build" in error("--data", str(tmp_path / "nowhere"))
    assert "must name the folder 'data', or --data be given" in error()
    assert "nothing.toml" in error("-c", "nothing.toml")
    wrong = error("--data", "data", "-c", toml("a.toml", "width =", "widht ="))
    assert "a.toml.model must not have 'widht'" in wrong
    assert "a.toml: Expected" in error("--data", "data", "-c", toml("a.toml", "[loop]", "[loop"))
    assert "--threads" in error("--data", "data", "--threads", "0")
    assert "steps" in error("--data", "data", "--steps", "0")
    absent = str(tmp_path / "absent.safetensors")
    assert "absent.safetensors" in error("--data", "data", "--codec", absent, "--export", str(tmp_path))
    assert "absent.safetensors" in error("--data", "data", "--init", absent)
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    assert "bad.safetensors" in error("--data", "data", "--init", str(tmp_path / "bad.safetensors"))
    assert "no attribute files" in error("--data", "data", "--windows", str(tmp_path))
    assert run(["train", "export", str(tmp_path), "mine"]) == 2
    assert "no such training checkpoint" in capsys.readouterr().err

    out = ("--data", "data", "--out", str(tmp_path / "run"))
    assert train_dit(tiny_model, *out) == 0
    other = error(*out, "-c", toml("b.toml", "depth = 2", "depth = 1"))
    assert "belongs to a run with another configuration: config.model.depth was 2, is now 1" in other
