# SPDX-License-Identifier: Apache-2.0
"""The rendered part of the data set: our own pieces by seed, and the scores of others, with exact facts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prestissimo.data import audio as audio_files
from prestissimo.data.analysis import KEYS, WINDOW_SAMPLES, measure, window_starts
from prestissimo.data.attributes import WindowAttributes
from prestissimo.data.compose import compose
from prestissimo.data.manifest import split_of
from prestissimo.data.packages import PackageError
from prestissimo.data.render import render
from prestissimo.data.scores import Score, midi_facts
from prestissimo.data.store import FeatureStore, FeatureWriter

__all__ = ["PIECES", "Rendering", "add_rendering", "own_pieces", "rendered_windows", "score_pieces"]

#: How many pieces of our own the full data set has, about 52 s each.
PIECES = 268
_SCORE_SECONDS = 75.0


@dataclass(frozen=True)
class Rendering:
    """Something to render. write: puts its MIDI file at a path. seconds: what is rendered at most.

    key: 0 ... 23 as in `Measures`, or None where it is to be measured. instruments: of a span of seconds.
    """

    id: str
    package: str
    title: str
    author: str
    licence: str
    style: str
    seconds: float
    bpm: float
    key: int | None
    write: Callable[[Path], None]
    instruments: Callable[[float, float], tuple[str, ...]]


def own_pieces(count: int = PIECES) -> Iterator[Rendering]:
    """Our own pieces, seeds 0 ... count - 1. They are dedicated to the public domain (CC0)."""
    for seed in range(count):
        piece = compose(seed)
        key = KEYS.index(piece.key.rsplit(" ", 1)[0]) + (12 if piece.mode == "minor" else 0)
        yield Rendering(
            f"rendered/{seed:04d}-{piece.style.replace(' ', '-')}",
            "rendered",
            piece.style,
            "Prestissimo (data/compose)",
            "CC0-1.0",
            piece.style,
            piece.seconds + 2.5,
            piece.bpm,
            key,
            piece.write_midi,
            piece.instruments,
        )


def score_pieces(scores: Iterator[Score]) -> Iterator[Rendering]:
    """The first 75 s of each score that is longer than 20 s. A score that cannot be read is left out."""
    for score in scores:
        with tempfile.TemporaryDirectory(prefix="prestissimo-") as folder:
            path = Path(folder) / "score.mid"
            path.write_bytes(score.data)
            try:
                facts = midi_facts(path)
            except ValueError:
                continue
        if facts.seconds < 20 or not facts.notes:
            continue
        yield Rendering(
            score.id,
            score.id.split("/")[0],
            score.title,
            score.author,
            score.licence,
            score.style,
            min(facts.seconds + 1.5, _SCORE_SECONDS),
            facts.bpm,
            None,
            lambda out, data=score.data: out.write_bytes(data) and None,  # type: ignore[misc]
            facts.instruments,
        )


def add_rendering(writer: FeatureWriter, piece: Rendering, font: Path) -> None:
    """Render and append one piece.

    Raises PackageError where FluidSynth fails or the piece is silent.
    """
    with tempfile.TemporaryDirectory(prefix="prestissimo-") as folder:
        midi = Path(folder) / "piece.mid"
        piece.write(midi)
        audio = render(midi, font, piece.seconds)
    kept = audio_files.sounding(audio)
    audio = _narrow(np.ascontiguousarray(audio[kept]), piece.id)
    if len(audio) < 10 * audio_files.SAMPLE_RATE:
        raise PackageError(f"{piece.id} renders to {len(audio) / audio_files.SAMPLE_RATE:.1f} s of sound")
    writer.add(
        audio,
        audio_files.normalise_gain(audio),
        kept.start / audio_files.SAMPLE_RATE,
        id=piece.id,
        package=piece.package,
        split=split_of(piece.id),
        title=piece.title,
        author=piece.author,
        licence=piece.licence,
        genre="",
    )


def _narrow(audio: np.ndarray, piece_id: str) -> np.ndarray:
    """Scale the side signal of (N, 2) audio down to a width drawn for the piece, -18 ... -5 dB of the mid.

    The sound font's stereo samples and FluidSynth's reverberation come out far wider than produced music
    (often -3 dB, some above 0, which a mono loudspeaker cancels; recorded music here: a median of -7 dB).
    """
    rng = np.random.Generator(np.random.PCG64([104729, *piece_id.encode()]))
    target = rng.uniform(-18, -5)
    mid, side = audio.sum(1) / 2, (audio[:, 0] - audio[:, 1]) / 2
    width = 10 * np.log10((np.mean(side**2) + 1e-12) / (np.mean(mid**2) + 1e-12))
    side *= 10 ** (min(target - width, 0) / 20)
    return np.stack([mid + side, mid - side], 1).astype(np.float32)


def rendered_windows(store: FeatureStore, piece: Rendering) -> list[WindowAttributes]:
    """Attributes of a stored rendering: sound is measured, tempo, key, instruments and style are facts."""
    track = store[piece.id]
    measures = measure(store.audio(track).numpy(), store.log_mel(track).numpy(), store.mel.floor)
    rows = []
    for i, (start, m) in enumerate(zip(window_starts(track.samples), measures, strict=True)):
        begin = start / 44100 + track.cut
        heard = piece.instruments(begin, begin + WINDOW_SAMPLES / 44100)
        exact = replace(m, bpm=piece.bpm, bpm_confidence=1.0, key_confidence=0.0)
        if piece.key is not None and any("drums" not in name for name in heard):
            exact = replace(exact, key=piece.key, key_confidence=1.0)
        elif piece.key is None:
            exact = replace(exact, key_confidence=m.key_confidence)
        rows.append(WindowAttributes(track.id, i, exact, (), heard, piece.style))
    return rows
