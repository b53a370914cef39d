# SPDX-License-Identifier: Apache-2.0
"""The regression of tempi on words finds again what captions were made with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from prestissimo.data.captions import Attributes
from prestissimo.training import tempo
from prestissimo.training.tempo import fit_tempo


@dataclass
class Track:
    id: str
    split: str = "train"
    seconds: float = 60.0


class Music:
    """Three kinds of music, whose word the caption is: of 140 bpm, of 70 bpm, and one with a beat in a quarter."""

    kinds = ("rave", "dirge", "drone")

    def __init__(self, tracks: int, silent: bool = False) -> None:
        self.store = [Track(f"t{i}") for i in range(tracks)] + [Track("h", "heldout"), Track("nobody")]
        self._rng, self._silent = np.random.default_rng(1), silent

    def __contains__(self, track: object) -> bool:
        return track != "nobody"

    def window(self, track: str, start: float, seconds: float) -> Attributes:
        assert track not in ("h", "nobody")
        assert (start % 6, seconds) == (0, 6.0)
        kind = int(track[1:]) % 3
        bpm = (140.0, 70.0, 100.0)[kind] * float(np.exp(self._rng.normal(0, 0.1)))
        known = (kind < 2 or self._rng.random() < 0.25) and not self._silent
        return Attributes(title=self.kinds[kind], bpm=bpm if known else 0.0)


@pytest.fixture(autouse=True)
def plain_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempo, "caption", lambda a, rng: f"{a.title}, {a.bpm:.0f} bpm" if a.bpm else a.title)


def test_it_finds_what_the_words_stand_for() -> None:
    music = Music(120)
    prior = fit_tempo(music.store, music)
    assert prior == fit_tempo(music.store, Music(120))
    assert set(prior.words) == set(Music.kinds)
    share, bpm = np.array([prior.expected(kind) for kind in Music.kinds]).T
    np.testing.assert_allclose(bpm, [140, 70, 100], rtol=0.03)
    assert min(share[:2]) > 0.95
    assert 0.2 < share[2] < 0.35
    assert prior.spread == pytest.approx(0.1, abs=0.02)
    assert 50 < prior.slowest < 70 < 140 < prior.fastest < 200


def test_music_without_a_beat_teaches_nothing() -> None:
    music = Music(3, silent=True)
    with pytest.raises(ValueError, match="no training window"):
        fit_tempo(music.store, music)
