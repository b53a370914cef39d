# SPDX-License-Identifier: Apache-2.0
"""The tempo that a prompt names, and one that suits its words where it names none."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

__all__ = ["FASTEST", "NAMED_TEMPO", "SLOWEST", "TempoPrior", "tempo_in", "words_of"]

SLOWEST, FASTEST = 30.0, 300.0
_MINUTE = r"(?:bpm\b|beats?[\s-]+(?:per|a|to the)[\s-]+minute\b)"
NAMED_TEMPO = re.compile(rf"(?<![\d.])(\d{{2,3}}(?:\.\d{{1,3}})?)[\s-]*{_MINUTE}", re.IGNORECASE)


def tempo_in(prompt: str) -> float | None:
    """The tempo that a prompt names, in beats per minute; None where it names none, or one that no music has.

    >>> tempo_in("house music at 124 BPM"), tempo_in("a waltz, 90 beats per minute"), tempo_in("music of 1980")
    (124.0, 90.0, None)
    """
    named = (float(match[1]) for match in NAMED_TEMPO.finditer(prompt))
    return next((bpm for bpm in named if SLOWEST <= bpm <= FASTEST), None)


def words_of(text: str) -> set[str]:
    """The words of a text, by which a tempo is chosen; a tempo that it names is not among them.

    >>> sorted(words_of("Slow, sad rock at 80 bpm"))
    ['at', 'rock', 'sad', 'slow']
    """
    return set(re.findall(r"[a-z]+", NAMED_TEMPO.sub("", text).lower()))


@dataclass(frozen=True)
class TempoPrior:
    """Whether music has a beat, and how fast it is, given the words W that describe it.

    odds of a beat = odds * prod_W words[w][0]; ln bpm ~ N(ln(bpm * prod_W words[w][1]), spread^2), cut to
    [slowest, fastest]. A logistic and a linear regression on the words of captions: see
    `training.tempo.fit_tempo`. Raises ValueError naming the field that is out of range.

    >>> prior = TempoPrior(odds=9, bpm=110, spread=0.2, slowest=60, fastest=180, words={"slow": (0.5, 0.8)})
    >>> prior.draw("techno", seed=1), prior.draw("techno", seed=2), prior.draw("slow techno", seed=1)
    (100.0, 137.0, 104.0)
    """

    odds: float
    bpm: float
    spread: float
    slowest: float
    fastest: float
    words: dict[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for name in ("odds", "bpm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        if not 0 <= self.spread < math.inf:
            raise ValueError(f"spread must be finite and not negative, got {self.spread!r}")
        if not SLOWEST <= self.slowest <= self.fastest <= FASTEST:
            raise ValueError(
                f"slowest and fastest must be {SLOWEST:g} <= slowest <= fastest <= {FASTEST:g}, "
                f"got {self.slowest!r} and {self.fastest!r}"
            )
        for word, factors in self.words.items():
            if not all(1e-3 <= factor <= 1e3 for factor in factors):
                raise ValueError(f"words.{word} must be two factors from 0.001 to 1000, got {factors!r}")

    def expected(self, prompt: str) -> tuple[float, float]:
        """(probability of a beat, median tempo in beats per minute) of music that a prompt describes."""
        log_odds, log_bpm = math.log(self.odds), math.log(self.bpm)
        for word in sorted(words_of(prompt)):
            odds, bpm = self.words.get(word, (1.0, 1.0))
            log_odds += math.log(odds)
            log_bpm += math.log(bpm)
        median = min(max(math.exp(min(log_bpm, 99.0)), self.slowest), self.fastest)
        return 1 / (1 + math.exp(-max(log_odds, -99.0))), median

    def draw(self, prompt: str, seed: int) -> float:
        """A tempo, in whole beats per minute; 0 for music without a beat. The same everywhere for prompt and seed.

        The prompt is hashed in with the seed: prompts that are given one seed share their noise, not their luck.
        """
        share, median = self.expected(prompt)
        rng = Random(f"{seed} {prompt}")
        beat, place = rng.random(), rng.random()
        if beat >= share:
            return 0.0
        z = NormalDist().inv_cdf(min(max(place, 1e-6), 1 - 1e-6))
        return float(round(min(max(median * math.exp(self.spread * z), self.slowest), self.fastest)))
