# SPDX-License-Identifier: Apache-2.0
"""Accompaniment patterns and drum grooves, bar by bar, times in beats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prestissimo.data.compose.harmony import Bar, voice_lead

__all__ = ["ACCOMPANIMENTS", "BASS_LINES", "GROOVES", "NoteList", "drums"]

#: (start, duration, pitch, accent): accent multiplies the velocity.
NoteList = list[tuple[float, float, int, float]]
Pattern = Callable[[np.random.Generator, Bar, list[int], int], NoteList]


def _block(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    return [(0.0, beats * 0.98, p, 1.0) for p in voicing]


def _half_block(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    half = beats / 2
    return [(at, half * 0.95, p, 1.0 if at == 0 else 0.88) for at in (0.0, half) for p in voicing]


def _quarters(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    return [(float(b), 0.8, p, 1.0 if b == 0 else 0.82) for b in range(beats) for p in voicing]


def _eighths(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    return [(b / 2, 0.42, p, 1.0 if b % 2 == 0 else 0.75) for b in range(2 * beats) for p in voicing]


def _offbeats(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    return [(b + 0.5, 0.4, p, 0.9) for b in range(beats) for p in voicing]


def _alberti(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    order = [0, -1, 1, -1]
    v = sorted(voicing)
    return [(i / 2, 0.5, v[order[i % 4] % len(v)], 1.0 if i % 4 == 0 else 0.8) for i in range(2 * beats)]


def _waltz(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    v = sorted(voicing)
    notes: NoteList = [(0.0, 0.95, v[0] - 12, 1.0)]
    return notes + [(float(b), 0.7, p, 0.75) for b in range(1, beats) for p in v]


def _stride(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    v = sorted(voicing)
    notes: NoteList = []
    for b in range(beats):
        if b % 2 == 0:
            low = v[0] - 12 if b % 4 == 0 else v[0] - 12 + 7
            notes.append((float(b), 0.6, low, 1.0))
        else:
            notes += [(float(b), 0.4, p, 0.8) for p in v]
    return notes


def _arpeggio(step: float, span: int) -> Pattern:
    def pattern(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
        v = sorted(voicing)
        ladder = sorted({p + 12 * o for p in v for o in range(span)})
        path = ladder + ladder[-2:0:-1]
        count = int(beats / step)
        return [
            (i * step, step * 1.6, path[i % len(path)], 1.0 if i % 4 == 0 else 0.82) for i in range(count)
        ]

    return pattern


def _broken_octave(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    v = sorted(voicing)
    root = v[0] - 12
    path = [root, v[0], v[1 % len(v)], v[-1], v[1 % len(v)], v[0], v[-1], v[1 % len(v)]]
    return [
        (i / 2, beats - i / 2 if i < 2 else 0.9, path[i % 8], 1.0 if i == 0 else 0.75)
        for i in range(2 * beats)
    ]


def _travis(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    v = sorted(voicing)
    bass = [v[0] - 12, v[1 % len(v)] - 12]
    notes: NoteList = [(float(b), 0.9, bass[b % 2], 1.0) for b in range(beats)]
    return notes + [(b + 0.5, 0.8, v[(b + 1) % len(v)], 0.8) for b in range(beats)]


def _strum(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    v = sorted({*voicing, *(p + 12 for p in voicing[:2]), voicing[0] - 12})
    notes: NoteList = []
    for at, down in ((0.0, True), (1.0, True), (1.5, False), (2.5, False), (3.0, True), (3.5, False)):
        if at >= beats or (not down and rng.random() < 0.15):
            continue
        order = v if down else v[::-1][:4]
        notes += [(at + 0.018 * i, 0.6, p, 1.0 if down else 0.7) for i, p in enumerate(order)]
    return notes


def _power_chug(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    root = 40 + (bar.root - 40) % 12
    notes: NoteList = []
    for i in range(2 * beats):
        accent = i in (0, 3, 6) or rng.random() < 0.1
        shape = (root, root + 7, root + 12) if accent else (root, root + 7)
        notes += [(i / 2, 0.45 if not accent else 0.6, p, 1.0 if accent else 0.8) for p in shape]
    return notes


def _gallop(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    root = 40 + (bar.root - 40) % 12
    return [
        (b + o, d, p, a)
        for b in range(beats)
        for o, d, a in ((0.0, 0.4, 1.0), (0.5, 0.2, 0.8), (0.75, 0.2, 0.85))
        for p in (root, root + 7)
    ]


def _power_hold(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    root = 40 + (bar.root - 40) % 12
    return [(0.0, beats * 0.97, p, 1.0) for p in (root, root + 7, root + 12)]


def _pulse16(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    v = sorted(voicing)
    mask = (1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1)
    return [
        (i / 4, 0.22, v[(i * 5) % len(v)], 1.0 if i % 4 == 0 else 0.75)
        for i in range(4 * beats)
        if mask[i % 16]
    ]


def _bossa(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    times = (0.0, 1.0, 1.5, 2.5, 3.5)
    return [(t, 0.45, p, 1.0 if t == 0 else 0.85) for t in times if t < beats for p in voicing]


def _comp(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    shapes = ((0.0, 1.66), (0.66, 2.66), (1.0, 3.66), (0.0, 2.66), (1.66,))
    times = shapes[int(rng.integers(len(shapes)))]
    return [(t, 0.4, p, 0.95) for t in times if t < beats for p in voicing]


ACCOMPANIMENTS: dict[str, Pattern] = {
    "block": _block, "half block": _half_block, "quarters": _quarters, "eighths": _eighths,
    "offbeats": _offbeats,
    "alberti": _alberti, "waltz": _waltz, "stride": _stride, "arpeggio": _arpeggio(0.5, 2),
    "wide arpeggio": _arpeggio(0.5, 3), "fast arpeggio": _arpeggio(0.25, 2), "broken octave": _broken_octave,
    "travis": _travis, "strum": _strum, "chug": _power_chug, "gallop": _gallop, "power hold": _power_hold,
    "pulse": _pulse16, "bossa": _bossa, "comp": _comp,
}  # fmt: skip


def _bass_root(bar: Bar, low: int = 33) -> int:
    return low + (bar.root - low) % 12


def _bass(times: tuple[tuple[float, float, int], ...]) -> Pattern:
    def pattern(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
        root = _bass_root(bar)
        return [(t, d, root + i, 1.0 if t == 0 else 0.88) for t, d, i in times if t < beats]

    return pattern


def _walking(rng: np.random.Generator, bar: Bar, voicing: list[int], beats: int) -> NoteList:
    root = _bass_root(bar)
    steps = [
        0,
        (bar.classes[1] - bar.root) % 12,
        (bar.classes[2] - bar.root) % 12,
        int(rng.choice([9, 10, 11, 5])),
    ]
    return [(float(b), 0.9, root + steps[b % 4], 1.0 if b % 2 == 0 else 0.9) for b in range(beats)]


BASS_LINES: dict[str, Pattern] = {
    "whole": _bass(((0, 3.9, 0),)),
    "root fifth": _bass(((0, 1.9, 0), (2, 1.9, 7))),
    "quarters": _bass(tuple((b, 0.85, 0) for b in range(4))),
    "eighths": _bass(tuple((b / 2, 0.42, 0) for b in range(8))),
    "offbeat": _bass(tuple((b + 0.5, 0.4, 0) for b in range(4))),
    "octaves": _bass(tuple((b / 2, 0.42, 12 * (b % 2)) for b in range(8))),
    "syncopated": _bass(
        ((0, 0.7, 0), (0.75, 0.7, 0), (1.5, 0.9, 12), (2.5, 0.45, 7), (3, 0.45, 10), (3.5, 0.4, 0))
    ),
    "reese": _bass(((0, 1.4, 0), (1.5, 0.9, 0), (2.5, 1.4, -2))),
    "bossa": _bass(((0, 1.4, 0), (1.5, 0.45, 7), (2, 1.4, 7), (3.5, 0.45, 0))),
    "walking": _walking,
}

# General MIDI percussion keys.
_KICK, _SNARE, _STICK, _CLAP, _HAT, _OPEN, _RIDE, _CRASH = 36, 38, 37, 39, 42, 46, 51, 49
_TOMS = (50, 48, 45, 43, 41)

#: Sixteenth-note grids of one bar: instrument -> steps with accents (x strong, o weak).
GROOVES: dict[str, tuple[tuple[int, str], ...]] = {
    "rock": ((_KICK, "x.....x.x......."), (_SNARE, "....x.......x..."), (_HAT, "x.o.x.o.x.o.x.o.")),
    "rock drive": ((_KICK, "x.x...x.x.x....."), (_SNARE, "....x.......x..o"), (_HAT, "x.x.x.x.x.x.x.x.")),
    "half time": ((_KICK, "x.....x...x....."), (_SNARE, "........x......."), (_RIDE, "x...o...x...o...")),
    "metal": ((_KICK, "xoxoxoxoxoxoxoxo"), (_SNARE, "....x.......x..."), (_CRASH, "x.......x......."),
        (_RIDE, "x.x.x.x.x.x.x.x.")),
    "metal gallop": ((_KICK, "x.oxx.oxx.oxx.ox"), (_SNARE, "....x.......x..."), (_HAT, "x.x.x.x.x.x.x.x.")),
    "four": ((_KICK, "x...x...x...x..."), (_CLAP, "....x.......x..."), (_OPEN, "..x...x...x...x."),
        (_HAT, "o.o.o.o.o.o.o.o.")),
    "techno": ((_KICK, "x...x...x...x..."), (_OPEN, "..x...x...x...x."), (_HAT, "oooooooooooooooo"),
        (_STICK, "...x..x....x..x.")),
    "breakbeat": ((_KICK, "x.........x....."), (_SNARE, "....x..o.o..x..."), (_HAT, "x.x.x.x.x.x.x.x.")),
    "dnb": ((_KICK, "x.........x....."), (_SNARE, "....x.......x..o"), (_RIDE, "x.o.x.o.x.o.x.o."),
        (_HAT, "..o...o...o...o.")),
    "funk": ((_KICK, "x..x..x...x..x.."), (_SNARE, "....x..o.o..x..o"), (_HAT, "x.x.x.x.x.x.x.x.")),
    "tribal": ((_KICK, "x...x...x...x..."), (45, "x..x..x...x.x..."), (41, "..x...x.x...x.x."),
        (48, "....x......x..xx")),
    "taiko": ((41, "x...x.xxx...x..."), (43, "..x...x...x.x.xx"), (_KICK, "x.......x......."),
        (35, "........x.......")),
    "march": ((_SNARE, "x.xxx.x.x.xxxxxx"), (_KICK, "x...x...x...x...")),
    "latin": ((_KICK, "x.....x.x.....x."), (_STICK, "x..x...x..x.x..."), (_HAT, "x.x.x.x.x.x.x.x."),
        (62, "..x...xx..x...xx")),
    "bossa": ((_KICK, "x.....xxx.....xx"), (_STICK, "x..x..x...x..x.."), (_HAT, "x.x.x.x.x.x.x.x.")),
    "pop": ((_KICK, "x.....x.x.x....."), (_SNARE, "....x.......x..."), (_HAT, "x.x.x.x.x.x.x.xo")),
    "soft": ((_KICK, "x.......x......."), (_STICK, "....x.......x..."), (_RIDE, "x...x...x...x...")),
}  # fmt: skip


def drums(rng: np.random.Generator, groove: str, beats: int, fill: bool, busy: float) -> NoteList:
    """One bar of a groove; "swing" has a triplet ride, a fill runs over the toms in the last two beats."""
    notes: NoteList = []
    if groove == "swing":
        for b in range(beats):
            notes.append((float(b), 0.2, _RIDE, 0.95))
            if b % 2 == 1:
                notes += [(b + 0.66, 0.2, _RIDE, 0.75), (float(b), 0.2, 44, 0.8)]
            if rng.random() < 0.25 * busy:
                notes.append((b + 0.66, 0.2, _SNARE, 0.45))
        notes.append((0.0, 0.2, _KICK, 0.6))
    else:
        for key, grid in GROOVES[groove]:
            for i, mark in enumerate(grid[: 4 * beats]):
                if mark == "x":
                    notes.append((i / 4, 0.2, key, 1.0 if i % 4 == 0 else 0.88))
                elif mark == "o" and rng.random() < 0.35 + 0.6 * busy:
                    notes.append((i / 4, 0.2, key, 0.55))
    if fill:
        notes = [n for n in notes if n[0] < beats - 2 or n[2] == _KICK]
        steps = int(8 * (0.5 + busy / 2))
        for i in range(steps):
            at = beats - 2 + 2 * i / steps
            key = _SNARE if i < steps // 3 else _TOMS[min(5 * i // steps, 4)]
            notes.append((at, 0.2, key, 0.75 + 0.3 * i / steps))
    return notes


def voicing_of(previous: list[int], bar: Bar, low: int, high: int, count: int) -> list[int]:
    """The next voicing in a register."""
    return voice_lead(previous, bar, low, high, count)
