# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from prestissimo.metrics import report as reports
from prestissimo.metrics.clips import ClipSet, LazyClips
from prestissimo.metrics.copies import Library, copy_report
from prestissimo.metrics.distances import compare_sets
from prestissimo.metrics.evaluation import Evaluator, evaluate_clips
from prestissimo.metrics.generated import CAPTIONED, Job, from_folder, from_jobs, generate_missing
from prestissimo.metrics.prompts import Prompt, fixed_prompts
from prestissimo.metrics.spectrum import spectral_profile

RATE = 44_100


def music(seed: int, kind: str, bpm: float = 120.0, seconds: float = 3.2, gain: float = 1.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    n = int(RATE * seconds)
    out = 0.001 * rng.normal(size=(2, n))
    t = np.arange(int(RATE * 0.4)) / RATE
    for i in range(int(seconds * bpm / 60)):
        at = int(i * 60 / bpm * RATE)
        if kind == "drums":
            note = rng.normal(size=len(t)) * np.exp(-25 * t)
        else:
            f = 220 * 2 ** (rng.choice([0, 4, 7, 12]) / 12)
            note = sum(np.sin(2 * np.pi * f * k * t) / k**2 for k in range(1, 7)) * np.exp(-4 * t)
        piece = 0.2 * note[: n - at]
        out[:, at : at + len(piece)] += piece * np.array([[1.0], [0.8]])
    return torch.from_numpy(gain * out).float()


def clip_set(kind: str, seeds: range, change: float = 1.0) -> ClipSet:
    readers = [lambda s=s: change * music(s, kind) for s in seeds]  # type: ignore[misc]
    return ClipSet(LazyClips(readers), [f"{kind} {s // 2}" for s in seeds])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of an obedient model: drums where drums are asked for, the asked tempo, loud where loud."""
    root = tmp_path_factory.mktemp("made")
    made = {f"tag-drums-{i:02d}": music(i, "drums") for i in range(1, 5)}
    made |= {f"tag-piano-{i:02d}": music(10 + i, "plucked") for i in range(1, 5)}
    asked = {p.id: p.bpm for p in fixed_prompts("tempo")[:3]}
    made |= {name: music(20, "drums", bpm, seconds=6.0) for name, bpm in asked.items()}
    made |= {"loudness-01-loud": music(30, "plucked"), "loudness-01-soft": music(30, "plucked", gain=0.3)}
    for name, clip in made.items():
        soundfile.write(root / f"{name}.flac", clip.T.numpy(), RATE)
    return root


@pytest.mark.usefixtures("judges")
def test_an_obedient_model(folder: Path, tmp_path: Path) -> None:
    made = from_folder(folder, fixed_prompts())
    run = Evaluator(tmp_path / "cache", draws=20)
    report = evaluate_clips(
        made,
        reference=clip_set("drums", range(100, 108)),
        real=clip_set("drums", range(110, 120)),
        others={"plucked": clip_set("plucked", range(120, 128))},
        evaluator=run,
    )
    json.dumps(report)
    assert report["clips"] == len(made) == 13
    by_tag = {row["tag"]: row for row in report["tags"]["tags"]}
    assert by_tag["drums"]["rank"]["value"] == 1
    assert by_tag["drums"]["lift"]["value"] > 2
    assert report["tempo"]["signal"]["met"]["value"] == 1
    (loudness,) = report["pairs"]
    assert loudness["ordered"]["value"] == 1
    assert loudness["medians"][0] - loudness["medians"][1] == pytest.approx(20 * np.log10(1 / 0.3), abs=0.3)
    rows = {(r["network"], r["name"]): r for r in report["distance"]}
    assert {name for _, name in rows} == {"real", "generated", "plucked"}
    for network in ("MSD_musicnn", "MSD_vgg"):
        real, plucked = rows[network, "real"], rows[network, "plucked"]
        assert real["ratio"] == pytest.approx(1)
        assert plucked["clips"] == 8
        assert plucked["real"] is not None  # ten real clips, eight of them beside these
        assert plucked["ratio"] > 3
        assert real["frechet"]["value"] < rows[network, "generated"]["frechet"]["value"]
    assert report["sound"]["difference"].keys() == {"0-4 kHz", "4-8 kHz", "8-16 kHz", "side/mid"}
    assert "structure" not in report

    titles = [t.title for t in reports.tables(report)]
    assert titles[:4] == ["Prompted tags", "Prompted tempo", "Attribute pairs", "Distance to real music"]
    text = reports.markdown({**report, "about": {"model": "obedient"}})
    assert "obedient" in text
    assert text.count("| drums |") == 1
    shown = reports.page(report)
    assert shown.count("data:image/png") == 4  # lift, pairs, two networks
    assert "<script" not in shown


@pytest.mark.usefixtures("judges")
def test_long_clips_have_a_section_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for i in range(1, 4):
        clip = music(i, "drums", seconds=24.0)
        soundfile.write(tmp_path / "made" / f"tag-drums-{i:02d}.s0.24s.flac", clip.T.numpy(), RATE)
    readers = [lambda s=s: music(s, "plucked", seconds=24.0) for s in range(3)]  # type: ignore[misc]
    real = ClipSet(LazyClips(readers), ["a", "b", "c"])
    report = evaluate_clips(
        from_folder(tmp_path / "made", fixed_prompts()),
        long_reference=real,
        long_real=real,
        evaluator=Evaluator(tmp_path / "cache", draws=5),
    )
    assert report.keys() == {"clips", "distance_long", "structure"}
    rows = {(r["network"], r["name"]): r["frechet"]["value"] for r in report["distance_long"]}
    assert rows["MSD_vgg", "real"] == pytest.approx(0, abs=1e-6)
    assert rows["MSD_vgg", "generated"] > 1
    assert report["structure"].keys() == {"loudness drift", "repetition"}


@pytest.mark.usefixtures("judges")
def test_captions_of_real_music_are_what_distance_is_measured_on(tmp_path: Path) -> None:
    asked = [Job(p, 0, 3.2) for p in fixed_prompts("tag")[:3]]
    asked += [Job(Prompt(f"captioned-{i}", CAPTIONED, "p/a", "", 0.0, "drums"), i, 3.2) for i in range(3)]
    kinds = {CAPTIONED: "drums", "tag": "plucked"}
    generate_missing(asked, lambda job: music(job.seed, kinds[job.prompt.kind]), tmp_path, RATE)
    made = from_jobs(asked, tmp_path, RATE)
    real = clip_set("drums", range(10, 14))
    report = evaluate_clips(made, reference=real, real=real, evaluator=Evaluator(draws=5))
    rows = {(r["network"], r["name"]): r for r in report["distance"]}
    assert {name for _, name in rows} == {"real", "generated", "generated, tags"}
    assert rows["MSD_vgg", "generated"]["clips"] == 3
    assert rows["MSD_vgg", "generated"]["ratio"] < rows["MSD_vgg", "generated, tags"]["ratio"]
    assert report["sound"]["made"] == pytest.approx(spectral_profile(made.clips().clips[3:]))


@pytest.mark.usefixtures("judges")
def test_sets_of_one_size_are_compared() -> None:
    real = clip_set("drums", range(12))
    rows = compare_sets(
        clip_set("drums", range(50, 60)), {"real": real, "few": real.take(6)}, "real", draws=5
    )
    few = next(r for r in rows if r.name == "few")
    assert few.real == pytest.approx(few.frechet.value)
    with pytest.raises(ValueError, match="real must be one of"):
        compare_sets(real, {"a": real}, "b")


def test_copies_are_named() -> None:
    rng = np.random.default_rng(0)
    tracks = [rng.normal(size=(5, 200)).astype(np.float32) for _ in range(3)]
    stolen = torch.from_numpy(tracks[2][:, 40:80] + 0.1 * rng.normal(size=(5, 40)).astype(np.float32))
    own = [torch.from_numpy(rng.normal(size=(5, 40)).astype(np.float32)) for _ in range(6)]
    made = [("mine", own[0]), ("stolen", stolen), ("mine too", own[1])]
    found = copy_report(Library(tracks), ["A", "B", "C"], made, own[2:], closest=2)
    assert found["closest"][0]["clip"] == "stolen"
    assert (found["closest"][0]["title"], found["closest"][0]["frame"]) == ("C", 40)
    assert found["most"]["made"] > 0.95 > 0.7 > found["most"]["real"]
    assert len(found["closest"]) == 2
    assert reports.tables({"copies": {"latent": found}})[0].rows[0][2] == "C"
    with pytest.raises(ValueError, match="titles"):
        copy_report(Library(tracks), ["A"], made, own[2:])


def test_cells_are_escaped() -> None:
    section = {
        "made": {"a|b<i>": 1.0},
        "real": {"a|b<i>": 2.0},
        "difference": {"a|b<i>": -1.0},
        "standing": {},
    }
    assert "a\\|b<i>" in reports.markdown({"sound": section})
    assert "a|b&lt;i&gt;" in reports.page({"sound": section})
