# SPDX-License-Identifier: Apache-2.0
"""Compose a piece: sections, parts, performance; and write it as a MIDI file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prestissimo.data.analysis import KEYS
from prestissimo.data.compose.harmony import Bar, Harmony, melody, voice_lead
from prestissimo.data.compose.patterns import ACCOMPANIMENTS, BASS_LINES, NoteList, drums
from prestissimo.data.compose.styles import PROGRAMS, STYLES, Layer, Style

__all__ = ["Note", "Part", "Piece", "compose"]

_TICKS = 480


@dataclass(frozen=True)
class Note:
    """Start and duration in beats, MIDI pitch and velocity."""

    start: float
    duration: float
    pitch: int
    velocity: int


@dataclass
class Part:
    """One layer as it is played."""

    instrument: str
    program: int
    channel: int
    level: float
    pan: float
    sustain: bool
    notes: list[Note] = field(default_factory=list)


@dataclass
class Piece:
    """A composed piece. bar_bpm: the tempo of each bar (bpm with rubato); beats: of a bar."""

    seed: int
    style: str
    bpm: float
    beats: int
    tonic: int
    mode: str
    parts: list[Part]
    bar_bpm: list[float]
    reverb: float

    @property
    def key(self) -> str:
        """Such as "E flat minor"."""
        return f"{KEYS[self.tonic]} {self.mode}"

    @property
    def seconds(self) -> float:
        """Length without the last notes' decay."""
        return self.second_of(len(self.bar_bpm) * self.beats)

    def second_of(self, beat: float) -> float:
        """Time in seconds of a position in beats."""
        bar = min(int(beat // self.beats), len(self.bar_bpm) - 1)
        before = sum(60 * self.beats / b for b in self.bar_bpm[:bar])
        return before + (beat - bar * self.beats) * 60 / self.bar_bpm[bar]

    def instruments(self, start: float, stop: float) -> tuple[str, ...]:
        """Names of the instruments that sound for at least an eighth of the time between two seconds, or play
        three notes in it; strongest part first."""
        found: dict[str, float] = {}
        for part in self.parts:
            spans = [(self.second_of(n.start), self.second_of(n.start + n.duration)) for n in part.notes]
            inside = [(max(a, start), min(b, stop)) for a, b in spans if a < stop and b > start]
            covered = sum(b - a for a, b in inside)
            if len(inside) >= 3 or covered >= (stop - start) / 8:
                found[part.instrument] = max(found.get(part.instrument, 0), part.level)
        return tuple(sorted(found, key=lambda k: -found[k]))

    def write_midi(self, path: Path | str) -> None:
        """Write a format 1 MIDI file. Raises ImportError naming the extra where mido is absent."""
        try:
            import mido
        except ImportError as error:
            raise ImportError('mido is needed to write MIDI: pip install "prestissimo[data]"') from error
        file = mido.MidiFile(ticks_per_beat=_TICKS)
        tempo = mido.MidiTrack()
        for i, bpm in enumerate(self.bar_bpm):
            tempo.append(
                mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm), time=_TICKS * self.beats if i else 0)
            )
        file.tracks.append(tempo)
        for part in self.parts:
            file.tracks.append(self._track(part))
        file.save(str(path))

    def _track(self, part: Part):  # type: ignore[no-untyped-def]
        import mido

        channel = part.channel
        events: list[tuple[int, int, object]] = []

        def at(beat: float, order: int, kind: str, **values: int) -> None:
            events.append(
                (max(round(beat * _TICKS), 0), order, mido.Message(kind, channel=channel, **values))
            )

        at(0, 0, "program_change", program=part.program)
        at(0, 0, "control_change", control=7, value=int(np.clip(127 * part.level, 1, 127)))
        at(0, 0, "control_change", control=10, value=int(np.clip(64 + 63 * part.pan, 0, 127)))
        at(0, 0, "control_change", control=91, value=int(127 * self.reverb))
        if part.sustain:
            for bar in range(len(self.bar_bpm)):
                at(bar * self.beats + 0.05, 1, "control_change", control=64, value=127)
                at((bar + 1) * self.beats - 0.05, 1, "control_change", control=64, value=0)
        for n in part.notes:
            at(n.start, 3, "note_on", note=n.pitch, velocity=n.velocity)
            at(n.start + max(n.duration, 0.02), 2, "note_off", note=n.pitch, velocity=0)
        track = mido.MidiTrack()
        now = 0
        for tick, _, message in sorted(events, key=lambda e: (e[0], e[1])):
            message.time = tick - now  # type: ignore[attr-defined]
            track.append(message)
            now = tick
        return track


def _sections(rng: np.random.Generator, bars: int) -> list[tuple[str, int]]:
    """(name, bars) of a form that lasts about `bars` bars: sections of 4 or 8, A and B alternating."""
    size = 8 if bars >= 20 else 4
    form = (
        ["A", "B", "A", "C", "A", "B", "C", "A", "B", "A"] if rng.random() < 0.5 else ["A", "A", "B", "B"] * 4
    )
    plan = [(name, size) for name in form[: max(round(bars / size), 2)]]
    if rng.random() < 0.5:
        plan.insert(0, ("intro", size // 2))
    plan.append(("end", 2))
    return plan


def _active(rng: np.random.Generator, style: Style, plan: list[tuple[str, int]]) -> dict[str, list[bool]]:
    """Which layers play in each section: the core always but in the introduction, the others by chance."""
    table = {}
    for name in dict.fromkeys(n for n, _ in plan):
        keep = [
            (rng.random() < 0.6 if name == "intro" else True) if layer.core else rng.random() < 0.6
            for layer in style.layers
        ]
        if not any(keep):
            keep[int(rng.integers(len(keep)))] = True
        table[name] = keep
    return table


def compose(seed: int, style: str | None = None, seconds: float = 50.0) -> Piece:
    """The piece of that seed: the same on every machine.

    style: one of STYLES, drawn by weight where None. seconds: about how long.
    Raises ValueError for an unknown style.

    >>> piece = compose(3, "flute solo")
    >>> piece.instruments(0, 20), 60 <= piece.bpm <= 140
    (('flute',), True)
    """
    rng = np.random.Generator(np.random.PCG64([7919, seed]))
    names = list(STYLES)
    drawn = rng.choice(
        len(names), p=np.array([s.weight for s in STYLES.values()]) / sum(s.weight for s in STYLES.values())
    )
    if style is None:
        style = names[int(drawn)]
    elif style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(names)}, got {style!r}")
    spec = STYLES[style]
    bpm = float(np.round(np.exp(rng.uniform(*np.log(spec.tempo))), 1))
    mode = "minor" if rng.random() < spec.minor else "major"
    tonic = int(rng.integers(12))
    beats = 3 if rng.random() < spec.waltz else 4
    harmony = Harmony(tonic, mode, bool(rng.random() < spec.sevenths), spec.harmony)
    plan = _sections(rng, max(round(seconds * bpm / 60 / beats), 8))
    active = _active(rng, spec, plan)
    chords = {name: harmony.section(rng, size) for name, size in plan}
    total = sum(size for _, size in plan)
    velocity = rng.uniform(*spec.velocity)
    activity = rng.uniform(*spec.activity)

    parts = []
    chosen: dict[str, str] = {}
    for number, layer in enumerate(spec.layers):
        name = chosen.setdefault(layer.instruments[0], str(rng.choice(layer.instruments)))
        channel = 9 if layer.role == "drums" else [c for c in range(16) if c != 9][number]
        part = Part(
            name,
            int(rng.choice(PROGRAMS[name])),
            channel,
            float(np.clip(layer.level * rng.uniform(0.85, 1.05), 0.1, 1)),
            float(np.clip(layer.pan * rng.choice([-1, 1]) + rng.normal(0, 0.05), -1, 1)),
            layer.sustain and bool(rng.random() < 0.8),
        )
        written = _write(rng, layer, harmony, plan, chords, active, number, beats, activity)
        part.notes = _perform(
            rng, written, plan, beats, velocity, spec.loose * bpm / 60000, layer.role == "drums"
        )
        if part.notes:
            parts.append(part)
    if chosen and len({p.instrument for p in parts}) == 1:
        for p in parts[1:]:
            p.program, p.pan = parts[0].program, parts[0].pan
    wander = np.cumsum(rng.normal(0, 1, total)) if spec.rubato else np.zeros(total)
    wander = np.clip(wander - wander.mean(), -2, 2) * spec.rubato / 2
    tempi = [float(bpm * (1 + w)) for w in wander]
    if spec.rubato:
        tempi[-2:] = [tempi[-2] * 0.92, tempi[-1] * 0.8]
    return Piece(seed, style, bpm, beats, tonic, mode, parts, tempi, float(rng.uniform(0.15, 0.75)))


def _write(
    rng: np.random.Generator,
    layer: Layer,
    harmony: Harmony,
    plan: list[tuple[str, int]],
    chords: dict[str, list[Bar]],
    active: dict[str, list[bool]],
    number: int,
    beats: int,
    activity: float,
) -> NoteList:
    """The notes of one layer over the whole piece. Sections of one name repeat what was written for it."""
    memory: dict[str, NoteList] = {}
    base = _patterns(rng, layer, beats)
    out: NoteList = []
    offset = 0.0
    for name, size in plan:
        bars = chords[name]
        if active[name][number]:
            if name not in memory or (layer.role == "drums" and rng.random() < 0.5):
                pattern = base if rng.random() < 0.6 else _patterns(rng, layer, beats)
                memory[name] = _section(rng, layer, harmony, bars, pattern, beats, activity, name == "end")
            out += [(offset + s, d, p, a) for s, d, p, a in memory[name]]
        offset += size * beats
    return out


def _patterns(rng: np.random.Generator, layer: Layer, beats: int) -> str:
    if beats == 3 and layer.role == "chords" and "waltz" in layer.patterns:
        return "waltz"
    usable = [p for p in layer.patterns if p != "waltz" or beats == 3]
    return str(rng.choice(usable)) if usable else ""


def _section(
    rng: np.random.Generator,
    layer: Layer,
    harmony: Harmony,
    bars: list[Bar],
    pattern: str,
    beats: int,
    activity: float,
    last: bool,
) -> NoteList:
    notes: NoteList = []
    if layer.role == "melody":
        line = melody(rng, harmony, bars, beats, layer.low, layer.high, 0.1 if last else activity)
        return [(s, d * 0.97, p, 1.0 if s % beats == 0 else 0.9) for s, d, p in line]
    voicing: list[int] = []
    for i, bar in enumerate(bars):
        start = float(i * beats)
        if layer.role == "drums":
            fill = (i % 4 == 3 and rng.random() < 0.35) or (i == len(bars) - 1 and rng.random() < 0.6)
            played = drums(rng, pattern, beats, fill, activity)
        elif layer.role == "bass":
            played = BASS_LINES["whole" if last else pattern](rng, bar, [], beats)
            shift = 12 if layer.instruments[0] == "cello" else 0
            played = [(s, d, p + shift, a) for s, d, p, a in played]
        else:
            voicing = voice_lead(voicing, bar, layer.low, layer.high, layer.voices)
            played = ACCOMPANIMENTS["block" if last and i == len(bars) - 1 else pattern](
                rng, bar, voicing, beats
            )
        notes += [
            (start + s, min(d, beats - s) if layer.role != "chords" else d, p, a)
            for s, d, p, a in played
            if s < beats
        ]
    return notes


def _perform(
    rng: np.random.Generator,
    notes: NoteList,
    plan: list[tuple[str, int]],
    beats: int,
    velocity: float,
    loose: float,
    percussion: bool,
) -> list[Note]:
    """Human timing and dynamics: normal deviations, a level for each section, a swell over each four bars."""
    edges = np.cumsum([0, *(size for _, size in plan)]) * beats
    levels = {name: rng.uniform(0.82, 1.1) for name in dict.fromkeys(n for n, _ in plan)}
    levels["intro"] = levels.get("intro", 1) * 0.88
    swell = rng.uniform(0, 0.12)
    played = []
    for start, duration, pitch, accent in notes:
        index = int(np.clip(np.searchsorted(edges, start, side="right") - 1, 0, len(plan) - 1))
        wave = 1 + swell * np.sin(np.pi * ((start / beats) % 4) / 4)
        v = velocity * accent * levels[plan[index][0]] * wave + rng.normal(0, 4)
        at = max(start + (rng.normal(0, loose) if loose else 0.0), 0.0)
        if percussion or 21 <= pitch <= 108:
            played.append(Note(at, float(duration), int(pitch), int(np.clip(v, 12, 127))))
    return played
