# SPDX-License-Identifier: Apache-2.0
"""Keys, progressions, voicings and melodies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Bar", "Harmony", "melody", "voice_lead"]

_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}

#: Chord degrees, one a bar, phrases of 4 or 8 bars. In minor a fifth degree takes the leading tone.
_PROGRESSIONS = {
    "major": (
        (1, 5, 6, 4), (1, 6, 4, 5), (1, 4, 5, 1), (1, 4, 1, 5), (6, 4, 1, 5), (1, 3, 4, 5), (1, 2, 5, 1),
        (4, 1, 5, 6), (1, 5, 4, 5), (1, 5, 6, 3, 4, 1, 4, 5), (1, 4, 2, 5, 1, 6, 2, 5),
            (1, 1, 4, 1, 2, 5, 1, 5),
        (4, 5, 3, 6, 2, 5, 1, 1), (1, 7, 6, 5), (1, 3, 6, 4),
    ),
    "minor": (
        (1, 6, 3, 7), (1, 4, 5, 1), (1, 7, 6, 7), (1, 6, 4, 5), (1, 4, 7, 3), (1, 7, 6, 5), (1, 5, 1, 4),
        (6, 7, 1, 1), (1, 3, 7, 4), (1, 4, 7, 3, 6, 4, 5, 1), (1, 5, 6, 3, 4, 1, 4, 5),
            (1, 1, 4, 4, 6, 5, 1, 5),
        (4, 7, 3, 6, 2, 5, 1, 1), (1, 6, 7, 5),
    ),
}  # fmt: skip
_STATIC = {
    "major": ((1, 1, 4, 4), (1, 1, 1, 1), (1, 4, 1, 4), (1, 1, 6, 6)),
    "minor": ((1, 1, 6, 6), (1, 1, 1, 1), (1, 7, 1, 7), (1, 1, 4, 4), (1, 6, 1, 6)),
}
_POWER = {"minor": ((1, 1, 6, 7), (1, 7, 6, 7), (1, 3, 7, 6), (1, 1, 2, 1), (1, 6, 7, 1), (1, 4, 6, 5))}


@dataclass(frozen=True)
class Bar:
    """One bar's chord: degree 1 ... 7, root pitch class and chord pitch classes from the root upwards."""

    degree: int
    root: int
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Harmony:
    """A key (tonic 0 ... 11 from C; "major" or "minor") and its chords.

    sevenths: chords of four notes. kind: "common", "static" (few changes), "power" (metal, minor).
    """

    tonic: int
    mode: str
    sevenths: bool = False
    kind: str = "common"

    @cached_property
    def scale(self) -> tuple[int, ...]:
        """Pitch classes of the scale."""
        return tuple((self.tonic + s) % 12 for s in _SCALES[self.mode])

    def bar(self, degree: int) -> Bar:
        """The chord on a degree. The dominant in minor has a major third."""
        count = 4 if self.sevenths else 3
        classes = [self.scale[(degree - 1 + 2 * i) % 7] for i in range(count)]
        if self.mode == "minor" and degree == 5:
            classes[1] = (self.tonic + 11) % 12
        return Bar(degree, classes[0], tuple(classes))

    def section(self, rng: np.random.Generator, bars: int) -> list[Bar]:
        """`bars` bars of a progression repeated; the last one leads back (dominant) half the time."""
        table = _STATIC if self.kind == "static" else _POWER if self.kind == "power" else _PROGRESSIONS
        options = table.get(self.mode, _PROGRESSIONS[self.mode])
        degrees = list(options[int(rng.integers(len(options)))])
        chain = (degrees * (bars // len(degrees) + 1))[:bars]
        if self.kind == "common" and rng.random() < 0.5:
            chain[-1] = 5
        return [self.bar(d) for d in chain]


def voice_lead(previous: list[int], bar: Bar, low: int, high: int, count: int = 3) -> list[int]:
    """Pitches in [low, high] for a chord, close to the previous voicing: least total motion, no crossing.

    The root is doubled where `count` exceeds the chord.
    """
    classes = list(bar.classes) + [bar.root] * max(count - len(bar.classes), 0)
    if count < len(classes):
        # Without the fifth first, then the root: third and seventh carry the chord.
        classes = [c for i, c in enumerate(classes) if i != 2][:count] if count < 4 else classes[:count]
    target = np.linspace(low + 2, high - 2, count) if not previous else np.array(sorted(previous)[:count])
    if len(target) < count:
        target = np.append(target, [target[-1] + 4] * (count - len(target)))
    best: list[int] = []
    cost = np.inf
    for turn in range(len(classes)):
        rotated = classes[turn:] + classes[:turn]
        for start in range(low, high + 1):
            if start % 12 != rotated[0]:
                continue
            pitches = [start]
            for c in rotated[1:count]:
                pitches.append(pitches[-1] + ((c - pitches[-1]) % 12 or 12))
            if pitches[-1] > high + 5:
                continue
            move = float(np.abs(np.array(pitches) - target[: len(pitches)]).sum())
            if move < cost:
                best, cost = pitches, move
    return best or [low + (bar.root - low) % 12]


#: Rhythms of one bar of four beats, in beats; negative is a rest. From calm to lively.
_RHYTHMS = (
    (4,), (2, 2), (3, 1), (2, 1, 1), (1, 1, 2), (1, 1, 1, 1), (1.5, 0.5, 2), (1, 0.5, 0.5, 2), (-1, 1, 2),
    (1.5, 1.5, 1), (1.5, 0.5, 1, 1), (0.5, 0.5, 1, 1, 1), (1, 1, 0.5, 0.5, 1), (-0.5, 0.5, 1, 1, 1),
    (0.5, 0.5, 0.5, 0.5, 1, 1), (0.75, 0.75, 0.5, 1, 1), (1, 0.5, 0.5, 0.5, 0.5, 1), (0.5,) * 8,
    (0.5, 0.25, 0.25, 0.5, 0.5, 1, 1), (0.5, 0.5, 0.5, 0.25, 0.25, 0.5, 0.5, 1), (0.25,) * 8 + (1, 1),
)  # fmt: skip
_WALTZ = (
    (3,), (2, 1), (1, 1, 1), (1.5, 0.5, 1), (1, 2), (1, 0.5, 0.5, 1), (0.5,) * 6, (-1, 1, 1),
        (1, 1, 0.5, 0.5),
)  # fmt: skip


def _rhythm(rng: np.random.Generator, beats: int, activity: float) -> tuple[float, ...]:
    table = _WALTZ if beats == 3 else _RHYTHMS
    centre = activity * (len(table) - 1)
    index = int(np.clip(rng.normal(centre, 2.2), 0, len(table) - 1))
    return table[index]


def melody(
    rng: np.random.Generator,
    harmony: Harmony,
    bars: list[Bar],
    beats: int,
    low: int,
    high: int,
    activity: float,
) -> list[tuple[float, float, int]]:
    """(start, duration, pitch) in beats: a motif of two bars, answered, varied and brought to rest.

    Strong beats take chord tones; between them the line walks the scale, leaps are turned back.
    """
    motif = [_rhythm(rng, beats, activity), _rhythm(rng, beats, activity)]
    contour = [rng.choice([-2, -1, -1, 1, 1, 2], size=24) for _ in motif]
    middle = (low + high) / 2
    pitch = middle + rng.normal(0, 2)
    notes: list[tuple[float, float, int]] = []
    scale = set(harmony.scale)
    for index, bar in enumerate(bars):
        last = index == len(bars) - 1
        which = index % 2
        rhythm = (float(beats),) if last else motif[which]
        if not last and index % 4 == 3:
            rhythm = _rhythm(rng, beats, activity * 0.5)
        allowed = scale | set(bar.classes)
        at = 0.0
        for k, length in enumerate(rhythm):
            if length < 0:
                at -= length
                continue
            step = contour[which][k % 24] if index < 4 or rng.random() < 0.7 else rng.integers(-2, 3)
            if pitch > high - 3:
                step = -abs(step)
            elif pitch < low + 3:
                step = abs(step)
            pool = bar.classes if at % 2 == 0 or last else allowed
            pitch = _nearest(pitch + 1.8 * step + 0.06 * (middle - pitch), pool, low, high)
            if length >= 0.5 and rng.random() < 0.06 and not last:
                at += length
                continue
            notes.append((index * beats + at, float(length), int(pitch)))
            at += length
    return notes


def _nearest(pitch: float, classes: set[int] | tuple[int, ...], low: int, high: int) -> float:
    options = [p for p in range(low, high + 1) if p % 12 in classes]
    return min(options, key=lambda p: abs(p - pitch)) if options else float(np.clip(pitch, low, high))
