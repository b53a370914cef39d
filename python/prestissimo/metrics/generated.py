# SPDX-License-Identifier: Apache-2.0
"""The clips of an evaluation: which are wanted, making those that are missing, reading them back."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from prestissimo import audio
from prestissimo.data.phrases import caption
from prestissimo.metrics.clips import ClipSet, LazyClips, audio_files, read_window
from prestissimo.metrics.prompts import Prompt, wordings_per_tag

if TYPE_CHECKING:
    from prestissimo.data.captions import Attributes

UNPROMPTED = "unprompted"
CAPTIONED = "captioned"


@dataclass(frozen=True)
class Job:
    """One clip to generate: its file is ``<name>.flac``.

    Attributes:
        prompt: a prompt of the table; of kind ``unprompted`` where the text is to be left out, ``captioned``
            where it is the caption of real music, its label that music's track.
        seed: of the noise.
        seconds: length.
    """

    prompt: Prompt
    seed: int
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.prompt.id}.s{self.seed}.{self.seconds:g}s"

    @property
    def unprompted(self) -> bool:
        return self.prompt.kind == UNPROMPTED


class Captions(Protocol):
    """What is asked of captions: :class:`prestissimo.data.captions.CaptionStore` has it."""

    def __contains__(self, track_id: object) -> bool: ...
    def window(self, track_id: str, start_s: float, seconds: float) -> Attributes: ...


def captioned(real: ClipSet, captions: Captions, seconds: float, *, seed: int = 0) -> list[Job]:
    """One job for each real clip of that length whose track has captions: its caption as the prompt.

    How far the generated set lies from music is then a matter of the model, not of what it was asked for.
    Raises ValueError where ``real`` does not say where its clips begin.
    """
    if len(real.starts) != len(real):
        raise ValueError("real must know where its clips begin: see stored_clips")
    jobs = []
    for i, (track, start) in enumerate(zip(real.tracks, real.starts, strict=True)):
        if track in captions:
            about = captions.window(track, start / real.sample_rate, seconds)
            text = caption(about, np.random.default_rng((seed, i)))
            name = f"{CAPTIONED}-{seconds:g}-{i:03d}".replace(".", "-")
            jobs.append(Job(Prompt(name, CAPTIONED, track, "", 0.0, text), seed + i, seconds))
    return jobs


def plan(
    prompts: Sequence[Prompt], *, quick: bool = False, seed: int = 0, long_tags: bool = True
) -> list[Job]:
    """The clips that an evaluation needs of a model.

    Quick: 10 wordings of each tag, 6 s. Full: every wording of each tag with 3 seeds at 6 s; every tempo at
    12 s; both of every pair with one seed at 6 s; 100 without text at 6 s; with ``long_tags`` 12 wordings of
    each tag at 32 s, which :func:`captioned` makes needless.
    """
    tagged = [p for p in prompts if p.kind == "tag"]
    if quick:
        return [Job(p, seed, 6.0) for p in wordings_per_tag(tagged, 10)]
    bare = [Prompt(f"{UNPROMPTED}-{i:03d}", UNPROMPTED, "", "", 0.0, "music") for i in range(100)]
    return [
        *(Job(p, seed + i, 6.0) for i in range(3) for p in tagged),
        *(Job(p, seed, 12.0) for p in prompts if p.kind == "tempo"),
        *(Job(p, seed, 6.0) for p in prompts if p.kind == "pair"),
        *(Job(p, seed + i, 6.0) for i, p in enumerate(bare)),
        *(Job(p, seed, 32.0) for p in wordings_per_tag(tagged, 12) if long_tags),
    ]


def generate_missing(
    jobs: Sequence[Job],
    generate: Callable[[Job], Tensor],
    folder: str | os.PathLike[str],
    sample_rate: int,
    *,
    progress: bool = False,
) -> int:
    """Generates every clip that has no file yet; each file appears whole, so a killed run resumes.

    Args:
        jobs: what to make.
        generate: (2, N) audio of a job; what is louder than full scale is turned down.
        folder: one file per job, 16-bit FLAC.
        sample_rate: in Hz.
        progress: show a progress bar.

    Returns:
        How many clips were made.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not (root / f"{job.name}.flac").exists()]
    for job in _shown(missing, progress):
        limited, _ = audio.limit_peak(generate(job).detach().cpu().numpy())
        audio.write(root / f"{job.name}.flac", limited, sample_rate, title=job.prompt.text, overwrite=True)
    return len(missing)


def _shown(jobs: list[Job], progress: bool) -> Sequence[Job]:
    if not progress:
        return jobs
    from rich.console import Console
    from rich.progress import track

    return track(jobs, "Generating", transient=True, console=Console(stderr=True))  # type: ignore[return-value]


@dataclass(frozen=True)
class Generated:
    """Clips read back, with the prompt and seed of each; prompt None for a file of another name."""

    files: list[Path]
    prompts: list[Prompt | None]
    seeds: list[int]
    sample_rate: int

    def __len__(self) -> int:
        return len(self.files)

    def where(self, keep: Callable[[Prompt | None, float], bool]) -> Generated:
        """Those for which ``keep(prompt, seconds)`` holds; seconds as in the file's name, 0 where unnamed."""
        chosen = [i for i in range(len(self)) if keep(self.prompts[i], _seconds(self.files[i]))]
        return Generated(
            [self.files[i] for i in chosen],
            [self.prompts[i] for i in chosen],
            [self.seeds[i] for i in chosen],
            self.sample_rate,
        )

    def clips(self) -> ClipSet:
        """As a set whose groups are the prompts; of captions, the tracks that they speak of."""
        readers = [partial(read_window, f, sample_rate=self.sample_rate) for f in self.files]
        names = [
            f.stem if p is None else p.label if p.kind == CAPTIONED else p.id
            for p, f in zip(self.prompts, self.files, strict=True)
        ]
        return ClipSet(LazyClips(readers), names, self.sample_rate)


_NAME = re.compile(r"^(?P<id>[^.]+)(?:\.s(?P<seed>\d+))?(?:\.(?P<seconds>\d+(?:\.\d+)?)s)?$")


def _seconds(file: Path) -> float:
    match = _NAME.match(file.stem)
    return float(match["seconds"]) if match and match["seconds"] else 0.0


def from_jobs(jobs: Sequence[Job], folder: str | os.PathLike[str], sample_rate: int) -> Generated:
    """The files of :func:`generate_missing`."""
    root = Path(folder)
    return Generated(
        [root / f"{job.name}.flac" for job in jobs],
        [job.prompt for job in jobs],
        [job.seed for job in jobs],
        sample_rate,
    )


def from_folder(
    folder: str | os.PathLike[str], prompts: Sequence[Prompt], sample_rate: int = 44_100
) -> Generated:
    """Anybody's clips: a file named after a prompt's id (``tag-piano-03.wav``, ``tag-piano-03.s1.6s.flac``)
    is judged by that prompt, any other by its sound alone.

    Raises NotADirectoryError, and ValueError where there is no audio file.
    """
    by_id = {p.id: p for p in prompts}
    files = audio_files(folder)
    matches = [_NAME.match(f.stem) for f in files]
    return Generated(
        files,
        [by_id.get(m["id"]) if m else None for m in matches],
        [int(m["seed"] or 0) if m else 0 for m in matches],
        sample_rate,
    )
