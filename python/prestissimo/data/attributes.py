# SPDX-License-Identifier: Apache-2.0
"""Attributes of every caption window of every track: tags, measures, exact facts of renderings; as text.

One tab-separated file a package lies in `windows/`, so that a new machine need not listen again. Row i of a
track speaks for samples 262144 i to 262144 (i + 1) of its trimmed audio.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prestissimo.data.analysis import WINDOW_SAMPLES, Measures, measure, window_starts
from prestissimo.data.store import FeatureStore, StoredTrack

if TYPE_CHECKING:
    from prestissimo.metrics.musicnn import MusiCNN

__all__ = [
    "TAGS",
    "WINDOWS",
    "WindowAttributes",
    "read_windows",
    "tag_track",
    "track_windows",
    "write_windows",
]

#: Folder of the attribute files that ship with the package.
WINDOWS = Path(__file__).with_name("windows")

#: The tags of MagnaTagATune in the order of the tagger's outputs.
TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano",
    "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing",
    "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop",
    "soft", "sitar", "solo", "man", "classic", "choir", "voice", "new age", "dance", "male voice",
    "female vocal", "beats", "harp", "cello", "no voice", "weird", "country", "metal",
    "female voice", "choral",
)  # fmt: skip
_KEEP = 8
_FLOOR = 0.04


@dataclass(frozen=True)
class WindowAttributes:
    """What is known of one window.

    tags: (index into TAGS, probability) of the strongest, strongest first.
    instruments, style: exact, of renderings only. bpm and key of a rendering are exact too, confidence 1.
    """

    track: str
    window: int
    measures: Measures
    tags: tuple[tuple[int, float], ...] = ()
    instruments: tuple[str, ...] = ()
    style: str = ""


_NUMBERS = {
    "rms_db": "{:.1f}", "centroid": "{:.0f}", "onsets": "{:.1f}", "width": "{:.0f}", "bass": "{:.1f}",
    "bpm": "{:.1f}", "bpm_confidence": "{:.2f}", "key": "{:d}", "key_confidence": "{:.2f}",
}  # fmt: skip
_COLUMNS = ("track", "window", *_NUMBERS, "tags", "instruments", "style")


def tag_track(
    net: MusiCNN, audio: np.ndarray, stride: int = 2, batch: int = 16
) -> list[tuple[tuple[int, float], ...]]:
    """The strongest tags of each window: MTT_musicnn on the middle 3 s of every `stride`-th window.

    The windows between take probabilities interpolated in time. audio: float32 (2, N) at 44.1 kHz.
    Up to 8 tags of at least 4 % a window. Raises ValueError for another net.
    """
    import soxr
    import torch

    if tuple(net.tags) != TAGS:
        raise ValueError("net must be the tagger MTT_musicnn")
    mono = soxr.resample(audio.mean(0), 44100, 16000, quality="HQ").astype(np.float32)
    patch = 187 * 256
    pieces = []
    starts = window_starts(audio.shape[1])
    heard = sorted({*range(0, len(starts), stride), len(starts) - 1})
    for start in (starts[i] for i in heard):
        middle = round((start + WINDOW_SAMPLES / 2) * 16000 / 44100) - patch // 2
        middle = min(max(middle, 0), max(len(mono) - patch, 0))
        piece = mono[middle : middle + patch]
        pieces.append(np.pad(piece, (0, patch - len(piece))))
    found = []
    with torch.inference_mode():
        for i in range(0, len(pieces), batch):
            found.append(
                net(torch.from_numpy(np.stack(pieces[i : i + batch])), patches=1).probabilities[:, 0]
            )
    known = torch.cat(found).numpy()
    rows = []
    for i in range(len(starts)):
        after = min(int(np.searchsorted(heard, i)), len(heard) - 1)
        before = max(after - 1, 0) if heard[after] != i else after
        share = (i - heard[before]) / max(heard[after] - heard[before], 1)
        p = (1 - share) * known[before] + share * known[after]
        order = np.argsort(-p)[:_KEEP]
        rows.append(tuple((int(k), round(float(p[k]), 2)) for k in order if p[k] >= _FLOOR))
    return rows


def track_windows(store: FeatureStore, track: StoredTrack, net: MusiCNN | None) -> list[WindowAttributes]:
    """Attributes of every window of a stored track; without tags where `net` is None."""
    audio = store.audio(track).numpy()
    measures = measure(audio, store.log_mel(track).numpy(), store.mel.floor)
    tags: Sequence[tuple[tuple[int, float], ...]] = tag_track(net, audio) if net else [()] * len(measures)
    return [WindowAttributes(track.id, i, m, t) for i, (m, t) in enumerate(zip(measures, tags, strict=True))]


def _row(w: WindowAttributes) -> str:
    numbers = [form.format(getattr(w.measures, name)) for name, form in _NUMBERS.items()]
    tags = " ".join(f"{i}:{round(100 * p)}" for i, p in w.tags)
    return "\t".join([w.track, str(w.window), *numbers, tags, ",".join(w.instruments), w.style])


def write_windows(windows: Iterable[WindowAttributes], path: Path | str) -> None:
    """Write attributes as text, replacing the file at once."""
    path = Path(path)
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(["\t".join(_COLUMNS), *map(_row, windows)]) + "\n", encoding="utf-8")
    partial.replace(path)


def read_windows(path: Path | str) -> Iterator[WindowAttributes]:
    """Read what `write_windows` wrote. Raises ValueError with the line for anything else."""
    path = Path(path)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise ValueError(f"{path.name} must have the columns {', '.join(_COLUMNS)}")
        for number, row in enumerate(reader, 2):
            try:
                values = {f.name: float(row[f.name]) for f in fields(Measures)}
                pairs = (pair.split(":") for pair in row["tags"].split())
                yield WindowAttributes(
                    row["track"],
                    int(row["window"]),
                    replace(Measures(**values), key=int(row["key"])),  # type: ignore[arg-type]
                    tuple((int(i), int(p) / 100) for i, p in pairs if int(i) < len(TAGS)),
                    tuple(x for x in row["instruments"].split(",") if x),
                    row["style"],
                )
            except (TypeError, ValueError, KeyError) as error:
                raise ValueError(f"{path.name} line {number}: {error}") from None
