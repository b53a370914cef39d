# SPDX-License-Identifier: Apache-2.0
"""Captions of any stretch of a track: the attributes of the windows it covers, said in varied English.

captions = CaptionStore(store)
attributes = captions.window("zaz-data/mus1", start_s=30.0, seconds=12.0)
text = caption(attributes, numpy.random.default_rng(0))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prestissimo.data.analysis import KEYS, WINDOW_SAMPLES, Measures
from prestissimo.data.attributes import TAGS, WINDOWS, WindowAttributes, read_windows
from prestissimo.data.phrases import caption, names_music
from prestissimo.data.store import FeatureStore, StoredTrack

__all__ = ["Attributes", "CaptionStore", "caption"]

_WINDOW_SECONDS = WINDOW_SAMPLES / 44100
_MEASURED = ("rms_db", "centroid", "onsets", "width", "bass")


@dataclass(frozen=True)
class Attributes:
    """What is known of a stretch of music.

    tags: tag -> strength, 1 = just worth saying (probability over the tag's own threshold).
    loud, bright, dense: quantiles in the corpus, 0 ... 1. width, bass: dB. key: "E flat minor", or "".
    bpm: 0 where unknown. exact: a rendering, whose tempo, key, instruments and style are facts.
    section: "intro", "ending" or "".
    """

    tags: Mapping[str, float] = field(default_factory=dict)
    instruments: tuple[str, ...] = ()
    style: str = ""
    genre: str = ""
    title: str = ""
    bpm: float = 0.0
    key: str = ""
    loud: float = 0.5
    bright: float = 0.5
    dense: float = 0.5
    width: float = -10.0
    bass: float = -10.0
    section: str = ""
    exact: bool = False

    @property
    def minor(self) -> bool | None:
        """True in minor, False in major, None where the key is unknown."""
        return self.key.endswith("minor") if self.key else None


class CaptionStore:
    """Attributes of every window of a data set, and of any stretch by aggregation.

    store: the built data set, for lengths, titles and genres. folder: where the attribute files lie.
    Thresholds of tags and quantiles are taken over the training windows. Raises FileNotFoundError where the
    folder has no attribute files.
    """

    def __init__(self, store: FeatureStore | Iterable[StoredTrack], folder: Path | str = WINDOWS) -> None:
        files = sorted(Path(folder).glob("*.tsv"))
        if not files:
            raise FileNotFoundError(f"{folder} holds no attribute files (*.tsv)")
        self._tracks = {t.id: t for t in store}
        self._windows: dict[str, list[WindowAttributes]] = {}
        for file in files:
            for w in read_windows(file):
                if w.track in self._tracks:
                    self._windows.setdefault(w.track, []).append(w)
        train = [w for k, ws in self._windows.items() if self._tracks[k].split == "train" for w in ws]
        self._fit(train or [w for ws in self._windows.values() for w in ws])

    def _fit(self, windows: list[WindowAttributes]) -> None:
        table = np.zeros((max(len(windows), 1), len(TAGS)))
        for i, w in enumerate(windows):
            for k, p in w.tags:
                table[i, k] = p
        # A tag is worth saying where it is likely, or where it is among the tag's own strongest eighth.
        self._threshold = np.clip(np.quantile(table, 0.88, axis=0), 0.1, 0.3)
        self._sorted = {
            name: np.sort([getattr(w.measures, name) for w in windows] or [0.0]) for name in _MEASURED
        }

    def __contains__(self, track_id: object) -> bool:
        return track_id in self._windows

    def _quantile(self, name: str, value: float) -> float:
        values = self._sorted[name]
        return float(np.searchsorted(values, value) / len(values))

    def window(self, track_id: str, start_s: float, seconds: float) -> Attributes:
        """Attributes of `seconds` from `start_s` of a track (times in its trimmed audio).

        Measures and tags are averaged over the windows covered, weighed by the overlap; the key and the tempo
        are those that most of the confidence agrees on. Raises KeyError for an unknown track,
        ValueError for a stretch that is not positive.
        """
        if not seconds > 0 or start_s < 0:
            raise ValueError(f"start_s must be at least 0 and seconds positive, got {start_s} and {seconds}")
        windows, track = self._windows[track_id], self._tracks[track_id]
        first = min(int(start_s / _WINDOW_SECONDS), len(windows) - 1)
        last = min(int(np.ceil((start_s + seconds) / _WINDOW_SECONDS - 1e-6)), len(windows))
        part = windows[first : max(last, first + 1)]
        begin = np.array([w.window * _WINDOW_SECONDS for w in part])
        overlap = np.minimum(begin + _WINDOW_SECONDS, start_s + seconds) - np.maximum(begin, start_s)
        weight = np.maximum(overlap, 1e-3)
        weight /= weight.sum()

        strength = np.zeros(len(TAGS))
        for share, w in zip(weight, part, strict=True):
            for k, p in w.tags:
                strength[k] += share * p
        strength /= self._threshold
        mean = {n: float(weight @ [getattr(w.measures, n) for w in part]) for n in _MEASURED}
        measures = [w.measures for w in part]
        end = start_s + seconds
        return Attributes(
            tags=_worth_saying(strength),
            instruments=_common(part, weight),
            style=part[0].style,
            genre=track.genre,
            title=track.title,
            bpm=_tempo(measures, weight),
            key=_key(measures, weight),
            loud=self._quantile("rms_db", mean["rms_db"]),
            bright=self._quantile("centroid", mean["centroid"]),
            dense=self._quantile("onsets", mean["onsets"]),
            width=mean["width"],
            bass=mean["bass"],
            section="intro" if start_s < 4 else "ending" if end > track.seconds - 4 else "",
            exact=bool(part[0].style),
        )


def _worth_saying(strength: np.ndarray) -> dict[str, float]:
    """Tags of strength 1 and more, strongest first; where no genre or instrument is, the two strongest."""
    order = np.argsort(-strength)
    tags = {TAGS[k]: float(strength[k]) for k in order if strength[k] >= 1}
    if not any(names_music(t) for t in tags):
        nearest = [k for k in order if names_music(TAGS[k]) and strength[k] >= 0.4][:2]
        tags |= {TAGS[k]: float(strength[k]) for k in nearest}
    return tags


def _common(windows: list[WindowAttributes], weight: np.ndarray) -> tuple[str, ...]:
    """Instruments heard in at least a third of the stretch, in score order."""
    heard: Counter[str] = Counter()
    for share, w in zip(weight, windows, strict=True):
        for name in w.instruments:
            heard[name] += share  # type: ignore[assignment]
    return tuple(name for name, share in heard.items() if share >= 1 / 3)


def _tempo(measures: list[Measures], weight: np.ndarray) -> float:
    """The tempo near which most confidence lies, 0 where that is little."""
    bpm = np.array([m.bpm for m in measures])
    sure = np.array([m.bpm_confidence for m in measures]) * weight
    if sure.sum() < 0.15 or not bpm.any():
        return 0.0
    close = np.abs(np.log(np.maximum(bpm, 1)[:, None] / np.maximum(bpm, 1)[None])) < 0.05
    votes = close @ sure
    best = int(np.argmax(votes))
    if votes[best] < 0.6 * sure.sum():
        return 0.0
    return float((bpm * sure)[close[best]].sum() / sure[close[best]].sum())


def _key(measures: list[Measures], weight: np.ndarray) -> str:
    """The key on which most confidence agrees, "" where that is little."""
    votes = np.zeros(24)
    for share, m in zip(weight, measures, strict=True):
        votes[m.key] += share * m.key_confidence
    best = int(np.argmax(votes))
    if votes[best] < 0.25 or votes[best] < 0.5 * votes.sum():
        return ""
    return f"{KEYS[best % 12]} {'minor' if best >= 12 else 'major'}"
