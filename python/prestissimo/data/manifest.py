# SPDX-License-Identifier: Apache-2.0
"""The list of tracks that ships: where each lies, its author, terms, checksum and split."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

__all__ = ["HELDOUT_SHARE", "MANIFEST", "SPLITS", "Track", "read_manifest", "split_of", "write_manifest"]

#: The manifest that ships with the package.
MANIFEST = Path(__file__).with_name("manifest.tsv")
SPLITS = ("train", "heldout", "heldout_package")
HELDOUT_SHARE = 0.08


@dataclass(frozen=True)
class Track:
    """One piece of music.

    path: below the unpacked package, or below its archive; several files that are added up are joined by "|".
    sha256: of the bytes of the file, or of the files one after another. seconds: as decoded, before trimming.
    """

    id: str
    package: str
    version: str
    path: str
    title: str
    author: str
    licence: str
    sha256: str
    seconds: float
    split: str
    genre: str = ""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if len(self.sha256) != 64:
            raise ValueError(f"sha256 must have 64 hexadecimal digits, got {self.sha256!r}")

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of the track."""
        return tuple(self.path.split("|"))


def split_of(track_id: str, evaluation: bool = False) -> str:
    """The split of a track: a function of its id alone, so that adding tracks never moves another.

    The first 32 bits of SHA-256(id) below HELDOUT_SHARE are held out.

    >>> split_of("zaz-data/mus1"), split_of("anything", evaluation=True)
    ('train', 'heldout_package')
    """
    if evaluation:
        return "heldout_package"
    draw = int(hashlib.sha256(track_id.encode()).hexdigest()[:8], 16) / 2**32
    return "heldout" if draw < HELDOUT_SHARE else "train"


def read_manifest(path: Path | str = MANIFEST) -> list[Track]:
    """The tracks of a manifest in file order. Raises ValueError for wrong columns, values or repeated ids."""
    path = Path(path)
    names = [f.name for f in fields(Track)]
    tracks = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if reader.fieldnames != names:
            raise ValueError(f"{path.name} must have the columns {', '.join(names)}, got {reader.fieldnames}")
        for number, row in enumerate(reader, 2):
            try:
                tracks.append(Track(**{**row, "seconds": float(row["seconds"])}))  # type: ignore[arg-type]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path.name} line {number}: {error}") from None
    if len({t.id for t in tracks}) != len(tracks):
        raise ValueError(f"{path.name} repeats a track id")
    return tracks


def write_manifest(tracks: Iterable[Track], path: Path | str) -> None:
    """Write tracks as tab-separated text. Raises ValueError where a value holds a tab or a line break."""
    names = [f.name for f in fields(Track)]
    lines = ["\t".join(names)]
    for track in tracks:
        values = [f"{track.seconds:.2f}" if n == "seconds" else str(getattr(track, n)) for n in names]
        if any(c in value for value in values for c in "\t\r\n"):
            raise ValueError(f"a value of {track.id} holds a tab or a line break")
        lines.append("\t".join(values))
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
