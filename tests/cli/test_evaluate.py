# SPDX-License-Identifier: Apache-2.0
"""`prestissimo evaluate` on a tiny random model and on folders of audio."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from prestissimo.cli.evaluate import evaluate, nearest_music
from prestissimo.data.store import FeatureStore, FeatureWriter
from prestissimo.metrics.clips import stored_clips
from prestissimo.metrics.generated import from_folder
from prestissimo.metrics.prompts import read_prompts
from prestissimo.pipeline import load

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("musicnn") is None, reason="needs pip install --no-deps musicnn==0.1.0"
)
APP = typer.Typer()
APP.command()(evaluate)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(APP, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def noises(folder: Path, names: list[str], seed: int, seconds: float = 3.2) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in names:
        t = np.arange(int(seconds * 44_100)) / 44_100
        clip = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 900) * t)[:, None] + 0.02 * rng.normal(
            size=(len(t), 2)
        )
        soundfile.write(folder / name, clip, 44_100)
    return folder


def test_folders_of_audio(tmp_path: Path) -> None:
    made = noises(tmp_path / "made", [f"tag-{t}-0{i}.wav" for t in ("piano", "drums") for i in (1, 2, 3)], 0)
    reference = noises(tmp_path / "reference", [f"{i}.flac" for i in range(7)], 1)
    out = tmp_path / "out"
    printed = run(
        "--audio-dir", made, "--reference-dir", reference, "-o", out, "--threads", 1, "-q", "--json"
    )
    report = json.loads(printed)
    assert report == json.loads((out / "report.json").read_text())
    assert report["about"]["folder"] == "made"
    assert {row["tag"] for row in report["tags"]["tags"]} == {"piano", "drums"}
    assert {row["name"] for row in report["distance"]} == {"generated"}
    assert "Prompted tags" in (out / "report.md").read_text()
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert len(list((out / "cache").rglob("*.npz"))) > 0


def test_a_model_is_resumed_and_other_settings_are_other_clips(tiny_model: Path, tmp_path: Path) -> None:
    table = tmp_path / "prompts.tsv"
    lines = [f"tag-{t}-{i}\ttag\t{t}\t\t\t{t} number {i}" for t in ("piano", "techno") for i in (1, 2)]
    table.write_text("id\tkind\tlabel\tpair\tbpm\tprompt\n" + "\n".join(lines) + "\n")
    out = tmp_path / "out"
    common = ("--model", tiny_model, "--prompts", table, "--quick", "-o", out, "-q")
    assert "Prompted tags" in run(*common)
    report = json.loads((out / "report.json").read_text())
    assert report["clips"] == 4
    assert report["about"]["model"] == "tiny"
    clips = sorted((out / "clips").rglob("*.flac"))
    assert [c.name for c in clips] == [f"tag-{t}-{i}.s0.6s.flac" for t in ("piano", "techno") for i in (1, 2)]
    stamps = [c.stat().st_mtime_ns for c in clips]
    clips[0].unlink()
    run(*common)
    assert [c.stat().st_mtime_ns for c in clips][1:] == stamps[1:]
    again = json.loads((out / "report.json").read_text())
    assert again["tags"] == report["tags"]  # the clip made again is the same
    run(*common, "--steps", 1)
    assert len(list((out / "clips").iterdir())) == 2


def data_set(folder: Path) -> Path:
    """Three training and two held-out tracks of 12 s: a tone each, over noise."""
    writer = FeatureWriter(folder)
    rng = np.random.default_rng(2)
    t = np.arange(130 * 4096) / 44_100
    for i, split in enumerate(["train"] * 3 + ["heldout"] * 2):
        tone = (
            0.2
            * np.sin(2 * np.pi * 110 * (i + 2) * t)[:, None]
            * (1 + 0.5 * np.sin(2 * np.pi * (i + 1) * t))[:, None]
        )
        clip = (tone + 0.02 * rng.normal(size=(len(t), 2))).astype(np.float32)
        about = {"package": "p", "title": f"song {i}", "author": "a", "licence": "CC0", "genre": ""}
        writer.add(clip, 0.0, id=f"p/{i}", split=split, **about)
    writer.publish()
    return folder


@pytest.mark.slow
def test_a_data_set_gives_distance_sound_and_copies(tiny_model: Path, tmp_path: Path) -> None:
    table = tmp_path / "prompts.tsv"
    lines = [f"tag-{t}-{i}\ttag\t{t}\t\t\t{t} number {i}" for t in ("piano", "techno") for i in (1, 2)]
    table.write_text("id\tkind\tlabel\tpair\tbpm\tprompt\n" + "\n".join(lines) + "\n")
    data, out = data_set(tmp_path / "data"), tmp_path / "out"
    run("--model", tiny_model, "--prompts", table, "--data", data, "--quick", "-o", out, "-q")
    report = json.loads((out / "report.json").read_text())
    assert {row["name"] for row in report["distance"]} == {"real", "generated", "codec"}
    assert report["sound"]["made"].keys() == report["sound"]["real"].keys()

    store, pipe = FeatureStore(data), load(tiny_model)
    made = from_folder(next((out / "clips").iterdir()), read_prompts(table))
    real = stored_clips(store, "heldout", samples=6 * 44_100)
    found = nearest_music(store, pipe, made, real, quiet=True)
    assert found.keys() == {"latent", "chroma"}
    for section in found.values():
        assert -1 <= section["most"]["made"] <= 1
        assert {c["title"] for c in section["closest"]} <= {f"song {i} (a)" for i in range(3)}


def test_bad_input(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(NotADirectoryError):
        run("--audio-dir", tmp_path / "absent", "-o", tmp_path / "out")
    with pytest.raises(ValueError, match="must not both be given"):
        run("--data", tmp_path, "--reference-dir", tmp_path)
    with pytest.raises(FileNotFoundError):
        run("--data", tmp_path, "-o", tmp_path / "out")
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_model, damaged)
    (damaged / "dit.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"dit\.safetensors"):
        run("--model", damaged, "-o", tmp_path / "out")
