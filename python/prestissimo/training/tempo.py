# SPDX-License-Identifier: Apache-2.0
"""The words of captions against the tempo of their music: two ridge regressions, solved in closed form."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from prestissimo.data.captions import CaptionStore, caption
from prestissimo.data.store import FeatureStore
from prestissimo.tempo import FASTEST, SLOWEST, TempoPrior, words_of

__all__ = ["fit_tempo"]

_HOP_SECONDS = 6.0
_SAID_AT_LEAST = 20  # captions; a rarer word says nothing
_RIDGE = 10.0


def fit_tempo(store: FeatureStore, captions: CaptionStore, seed: int = 0) -> TempoPrior:
    """Words against tempo, on a caption of every six seconds of the training tracks, a tempo in it left out.

    min_w sum log(1 + exp(-y x'w)) + ridge |w|^2 / 2 for whether there is a beat (y = +-1, Newton's method), least
    squares with the same penalty for ln bpm where there is; x: which words the caption has. Raises ValueError where
    no training window has a tempo.
    """
    rng = np.random.default_rng(seed)
    said: list[set[str]] = []
    tempi: list[float] = []
    for track in store:
        if track.split == "train" and track.id in captions:
            for start in np.arange(0, max(track.seconds - _HOP_SECONDS, 1), _HOP_SECONDS):
                known = captions.window(track.id, float(start), _HOP_SECONDS)
                said.append(words_of(caption(known, rng)))
                tempi.append(known.bpm)
    bpm = np.array(tempi)
    beat = bpm > 0
    if not beat.any():
        raise ValueError("no training window of the data set has a tempo")
    counts = Counter(word for words in said for word in words)
    words = sorted(word for word, count in counts.items() if count >= _SAID_AT_LEAST)
    x = np.ones((len(said), len(words) + 1))
    for row, present in zip(x, said, strict=True):
        row[1:] = [word in present for word in words]
    odds = _logistic(x, beat)
    pace = _ridge(x[beat], np.log(bpm[beat]))
    spread = float(np.std(np.log(bpm[beat]) - x[beat] @ pace))
    slowest, fastest = np.quantile(bpm[beat], [0.01, 0.99])
    factors = np.exp(np.stack([odds, pace], axis=1))
    return TempoPrior(
        odds=_short(factors[0, 0]),
        bpm=_short(factors[0, 1]),
        spread=_short(spread),
        slowest=float(max(SLOWEST, math.floor(slowest))),
        fastest=float(min(FASTEST, math.ceil(fastest))),
        words={
            word: (_short(a), _short(b)) for word, (a, b) in zip(words, factors[1:].tolist(), strict=True)
        },
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _penalty(size: int) -> np.ndarray:
    """Of all weights but the constant's."""
    return np.diag(np.r_[1e-6, np.full(size - 1, _RIDGE)])


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.linalg.solve(x.T @ x + _penalty(x.shape[1]), x.T @ y)
    return weights


def _logistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    weights, penalty = np.zeros(x.shape[1]), _penalty(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (y - p) - penalty @ weights
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, slope)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return weights
