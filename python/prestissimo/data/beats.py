# SPDX-License-Identifier: Apache-2.0
"""Where the beats of a stretch of music lie, given about how fast they come.

The onset strength of music with a pulse is about 1 + cos 2π(f t + φ): the Fourier sum X(f) = Σ s(t) e^(-2πi f t) is
largest at the true rate f once the mean is taken off, and φ, the beats since the last beat at t = 0, is its angle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prestissimo.data.analysis import band_strengths
from prestissimo.data.store import FeatureStore

__all__ = ["BeatGrid", "Beats", "find_beats"]

_CLEAR = 0.12  # |X| over the sum of the strength, which 5 of 100 draws of noise of 6 s exceed
_HOP = 512


class Beats(NamedTuple):
    """tempo: beats per minute, 0 where it is unknown; phase: beats since the last beat at the start, 0 ... 1, NaN
    where there is no clear beat."""

    tempo: float
    phase: float


def find_beats(
    strength: np.ndarray, frames_per_second: float, bpm: float, tolerance: float = 0.01
) -> tuple[Beats, float]:
    """The beats within `tolerance` of `bpm` in an onset strength (T,), and how clear they are, 0 ... 1.

    Raises ValueError for a tempo that is not positive or less than one frame.
    """
    if not bpm > 0 or not len(strength):
        raise ValueError(f"bpm must be positive and strength hold a frame, got {bpm} and {len(strength)}")
    seconds = np.arange(len(strength)) / frames_per_second
    # The sum's main lobe is 2 / duration wide: steps of a tenth of that lose at most 2 % of its height.
    steps = max(1, int(np.ceil(bpm / 60 * tolerance * seconds[-1] / 0.2)))
    rates = bpm / 60 * (1 + tolerance * np.arange(-steps, steps + 1) / steps)
    sums = np.exp(-2j * np.pi * rates[:, None] * seconds) @ (strength - strength.mean())
    best = int(np.argmax(np.abs(sums)))
    clarity = float(np.abs(sums[best]) / max(float(strength.sum()), 1e-9))
    if clarity < _CLEAR:
        return Beats(bpm, float("nan")), clarity
    return Beats(60 * float(rates[best]), float(np.angle(sums[best]) / (2 * np.pi)) % 1.0), clarity


class BeatGrid:
    """Beats of any stretch of a built data set; onset strengths are measured once a track, 4 bytes a frame."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._rate = store.mel.sample_rate / _HOP
        self._strengths: dict[str, np.ndarray] = {}

    def beats(
        self, track_id: str, start_s: float, seconds: float, bpm: float, tolerance: float = 0.01
    ) -> Beats:
        """Beats of `seconds` from `start_s`, within `tolerance` of `bpm`; raises KeyError for an unknown track."""
        if track_id not in self._strengths:
            bands = band_strengths(self._store.log_mel(track_id)[0].numpy())
            total = bands.sum(1, keepdims=True)
            # Every band counts alike, so that a loud bass does not hide a hi-hat or the reverse.
            self._strengths[track_id] = (bands / np.maximum(total, 1e-9)).mean(0).astype(np.float32)
        strength = self._strengths[track_id]
        first = min(round(start_s * self._rate), len(strength) - 1)
        part = strength[first : max(first + 1, round((start_s + seconds) * self._rate))]
        return find_beats(part, self._rate, bpm, tolerance)[0]
