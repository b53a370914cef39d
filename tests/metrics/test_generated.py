# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch

from prestissimo.data.captions import Attributes
from prestissimo.metrics.clips import ClipSet
from prestissimo.metrics.generated import Job, captioned, from_folder, from_jobs, generate_missing, plan
from prestissimo.metrics.prompts import fixed_prompts

RATE = 8_000


def tone(job: Job) -> torch.Tensor:
    t = torch.arange(round(0.1 * RATE)) / RATE
    return (0.5 + job.seed) * torch.sin(2 * torch.pi * 440 * t).repeat(2, 1)


def test_plans() -> None:
    prompts = fixed_prompts()
    quick = plan(prompts, quick=True, seed=5)
    assert len(quick) == 100
    assert {job.seconds for job in quick} == {6.0}
    assert {job.seed for job in quick} == {5}
    assert Counter(job.prompt.tag for job in quick) == dict.fromkeys({p.tag for p in prompts} - {None}, 10)
    full = plan(prompts)
    assert len({job.name for job in full}) == len(full) == 600 + 60 + 280 + 100 + 120
    assert sum(job.unprompted for job in full) == 100
    assert plan(prompts, long_tags=False) == [job for job in full if job.seconds < 32]
    assert Counter(job.seconds for job in full) == {6.0: 980, 12.0: 60, 32.0: 120}


class Spoken:
    """Captions of one track alone."""

    def __contains__(self, track_id: object) -> bool:
        return track_id == "p/told"

    def window(self, track_id: str, start_s: float, seconds: float) -> Attributes:
        return Attributes(tags={"piano": 2.0}, bpm=60 + 10 * start_s, key="A minor", dense=seconds / 10)


def test_captions_of_real_music_become_prompts(tmp_path: Path) -> None:
    starts = [0, 2 * 44_100, 0]
    real = ClipSet([torch.zeros(2, 3 * 44_100)] * 3, ["p/told", "p/told", "p/untold"], starts=starts)
    jobs = captioned(real, Spoken(), 3.0, seed=4)
    assert [(job.name, job.seed, job.prompt.label) for job in jobs] == [
        ("captioned-3-000.s4.3s", 4, "p/told"),
        ("captioned-3-001.s5.3s", 5, "p/told"),
    ]
    assert jobs == captioned(real, Spoken(), 3.0, seed=4)
    assert any(
        "piano" in job.prompt.text.lower()
        for seed in range(4)
        for job in captioned(real, Spoken(), 3.0, seed=seed)
    )
    made = from_jobs(jobs, tmp_path, RATE)
    assert made.clips().tracks == ["p/told", "p/told"]
    assert real.take(2).starts == [0, 0]
    with pytest.raises(ValueError, match="where its clips begin"):
        captioned(ClipSet(real.clips, real.tracks), Spoken(), 3.0)


def test_only_missing_clips_are_made_and_loud_ones_turned_down(tmp_path: Path) -> None:
    jobs = [Job(p, seed, 0.1) for p in fixed_prompts("tag")[:2] for seed in (0, 1)]
    calls: list[str] = []

    def generate(job: Job) -> torch.Tensor:
        calls.append(job.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tone(job)

    with pytest.raises(KeyboardInterrupt):
        generate_missing(jobs, generate, tmp_path, RATE)
    assert len(list(tmp_path.iterdir())) == 2
    assert generate_missing(jobs, generate, tmp_path, RATE) == 2
    assert calls == [jobs[0].name, jobs[1].name, jobs[2].name, jobs[2].name, jobs[3].name]
    assert generate_missing(jobs, generate, tmp_path, RATE) == 0
    made = from_jobs(jobs, tmp_path, RATE)
    peaks = [clip.abs().max().item() for clip in made.clips().clips]
    assert peaks == pytest.approx([0.5, 0.989, 0.5, 0.989], abs=0.01)
    assert made.clips().tracks == [job.prompt.id for job in jobs]


def test_file_names_tell_the_prompt(tmp_path: Path) -> None:
    prompts = fixed_prompts()
    names = ["tag-piano-03", "tag-piano-04.s7", "tempo-02.s1.12s", "my song.take.2", "tag-kazoo-01.s0.6s"]
    for name in names:
        soundfile.write(tmp_path / f"{name}.wav", tone(Job(prompts[0], 0, 0.1)).T.numpy(), RATE)
    made = from_folder(tmp_path, prompts, RATE)
    found = {
        f.stem: (p.id if p else None, s) for f, p, s in zip(made.files, made.prompts, made.seeds, strict=True)
    }
    assert found == {
        "tag-piano-03": ("tag-piano-03", 0),
        "tag-piano-04.s7": ("tag-piano-04", 7),
        "tempo-02.s1.12s": ("tempo-02", 1),
        "my song.take.2": (None, 0),
        "tag-kazoo-01.s0.6s": (None, 0),
    }
    assert len(made.where(lambda p, s: s == 12)) == 1
    assert len(made.where(lambda p, _: p is not None and p.tag == "piano")) == 2
    assert made.clips().clips[0].shape == (2, 800)
