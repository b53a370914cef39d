# SPDX-License-Identifier: Apache-2.0
"""Clips to judge: non-overlapping windows of a built data set or of a folder of audio files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol, TypeVar, overload

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


class LazyClips(Sequence[Tensor]):
    """Clips that are read when they are asked for, and not kept: 500 of 6 s would take 1 GB."""

    def __init__(self, readers: Sequence[Callable[[], Tensor]]) -> None:
        self._readers = list(readers)

    def __len__(self) -> int:
        return len(self._readers)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> LazyClips: ...
    def __getitem__(self, index: int | slice) -> Tensor | LazyClips:
        if isinstance(index, slice):
            return LazyClips(self._readers[index])
        return self._readers[index]()


@dataclass(frozen=True)
class ClipSet:
    """Clips (2, N) at one sample rate and the track that each was cut from; starts: where, in samples, if known."""

    clips: Sequence[Tensor]
    tracks: Sequence[str]
    sample_rate: int = 44_100
    starts: Sequence[int] = ()

    def take(self, count: int) -> ClipSet:
        """At most ``count`` of the clips, evenly spread."""
        chosen = evenly(range(len(self)), count)
        clips = LazyClips([partial(self.clips.__getitem__, i) for i in chosen])
        starts = [self.starts[i] for i in chosen] if self.starts else ()
        return ClipSet(clips, [self.tracks[i] for i in chosen], self.sample_rate, starts)

    def map(self, change: Callable[[Tensor], Tensor]) -> ClipSet:
        """The same clips, each passed through ``change`` when it is read."""
        readers = [partial(lambda i: change(self.clips[i]), i) for i in range(len(self))]
        return ClipSet(LazyClips(readers), self.tracks, self.sample_rate, self.starts)

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

    def audible(place: tuple[TrackT, int]) -> bool:
        return bool(store.audio(*place, samples).square().mean().sqrt() >= 10 ** (silence_db / 20))

    chosen = [place for place in evenly(places, count) if audible(place)]
    readers = [partial(store.audio, track, start, samples) for track, start in chosen]
    starts = [start for _, start in chosen]
    return ClipSet(LazyClips(readers), [track.id for track, _ in chosen], starts=starts)


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
    readers: list[Callable[[], Tensor]] = []
    names: list[str] = []
    for path in audio_files(folder):
        try:
            length = audio_io.read(path, sample_rate, convert=True).shape[1]
        except (OSError, ValueError) as error:
            logger.warning("left out: %s", error)
            continue
        size = length if seconds is None else round(seconds * sample_rate)
        for start in range(0, length - size + 1, size):
            readers.append(partial(read_window, path, start, size, sample_rate))
            names.append(path.relative_to(folder).as_posix())
    if not readers:
        wanted = "" if seconds is None else f" of {seconds:g} s"
        raise ValueError(f"{folder} holds no readable audio{wanted}")
    return ClipSet(LazyClips(readers), names, sample_rate).take(len(readers) if count is None else count)


@lru_cache(maxsize=2)
def _whole(path: Path, sample_rate: int) -> Tensor:
    return torch.from_numpy(audio_io.read(path, sample_rate, convert=True))


def read_window(path: Path, start: int = 0, size: int | None = None, sample_rate: int = 44_100) -> Tensor:
    """(2, size) samples of a file from ``start`` on; successive windows of one file decode it once."""
    whole = _whole(path, sample_rate)
    return whole[:, start : None if size is None else start + size].clone()
