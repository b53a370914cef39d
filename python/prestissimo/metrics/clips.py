# SPDX-License-Identifier: Apache-2.0
"""Clips to judge: non-overlapping windows of a built data set or of a folder of audio files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from prestissimo import audio as audio_io

logger = logging.getLogger(__name__)
SUFFIXES = (".wav", ".wave", ".flac", ".mp3", ".opus", ".ogg", ".oga")
Item = TypeVar("Item")


class Track(Protocol):
    """What is needed to know of a stored track."""

    @property
    def id(self) -> str: ...
    @property
    def samples(self) -> int: ...


TrackT = TypeVar("TrackT", bound=Track)


class Store(Protocol[TrackT]):
    """What is needed of a data set: :class:`prestissimo.data.store.FeatureStore` has it."""

    def select(self, split: str | None = None, package: str | None = None) -> list[TrackT]: ...
    def audio(self, track: TrackT, start: int = 0, count: int | None = None) -> Tensor: ...


@dataclass(frozen=True)
class ClipSet:
    """Clips (2, N) at one sample rate and the track that each was cut from."""

    clips: list[Tensor]
    tracks: list[str]
    sample_rate: int = 44_100

    def __len__(self) -> int:
        return len(self.clips)


def evenly(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most ``count`` of the items, evenly spread and in order; all where None.

    >>> evenly("abcdefg", 3)
    ['a', 'd', 'g']
    """
    if count is None or count >= len(items):
        return list(items)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, count)]


def stored_clips(
    store: Store[TrackT],
    split: str = "heldout",
    *,
    samples: int = 262_144,
    count: int | None = None,
    silence_db: float = -60.0,
) -> ClipSet:
    """Successive windows of every track of a split, without overlap, spread evenly down to ``count``.

    Args:
        store: a built data set.
        split: which of its tracks.
        samples: length of a window; 262,144 are 5.94 s.
        count: at most this many.
        silence_db: windows with an rms below this, in dB of full scale, are left out.

    Raises:
        ValueError: no track of the split is long enough.
    """
    places = [
        (track, start)
        for track in store.select(split)
        for start in range(0, track.samples - samples + 1, samples)
    ]
    if not places:
        raise ValueError(f"split {split!r} has no track of {samples} samples")
    clips, names = [], []
    for track, start in evenly(places, count):
        clip = store.audio(track, start, samples)
        if clip.square().mean().sqrt() >= 10 ** (silence_db / 20):
            clips.append(clip)
            names.append(track.id)
    return ClipSet(clips, names)


def audio_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Every audio file below a folder, sorted. Raises NotADirectoryError, and ValueError where none is."""
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ValueError(f"{root} holds no audio file ({', '.join(SUFFIXES)})")
    return found


def folder_clips(
    folder: str | os.PathLike[str],
    *,
    seconds: float | None = None,
    count: int | None = None,
    sample_rate: int = 44_100,
) -> ClipSet:
    """Windows of every audio file below a folder, converted to stereo at ``sample_rate``.

    Args:
        folder: searched with its sub-folders.
        seconds: cut files into successive windows of this length and leave out what remains; None keeps
            each file whole.
        count: at most this many windows, evenly spread.
        sample_rate: in Hz.

    A file that cannot be read is left out with a warning in the log.

    Raises:
        NotADirectoryError: not a folder.
        ValueError: no readable audio of that length.
    """
    if seconds is not None and not 0 < seconds < 86_400:
        raise ValueError(f"seconds must be between 0 and a day, got {seconds}")
    clips: list[Tensor] = []
    names: list[str] = []
    for path, whole in _readable(audio_files(folder), sample_rate):
        size = whole.shape[1] if seconds is None else round(seconds * sample_rate)
        for start in range(0, whole.shape[1] - size + 1, size):
            clips.append(whole[:, start : start + size].clone())
            names.append(path.relative_to(folder).as_posix())
    if not clips:
        raise ValueError(f"{folder} holds no readable audio of {seconds} s")
    chosen = evenly(range(len(clips)), count)
    return ClipSet([clips[i] for i in chosen], [names[i] for i in chosen], sample_rate)


def _readable(paths: Sequence[Path], sample_rate: int) -> Iterator[tuple[Path, Tensor]]:
    for path in paths:
        try:
            yield path, torch.from_numpy(audio_io.read(path, sample_rate, convert=True))
        except (OSError, ValueError) as error:
            logger.warning("left out: %s", error)
