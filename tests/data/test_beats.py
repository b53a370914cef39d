# SPDX-License-Identifier: Apache-2.0
"""Beats of click tracks whose beats are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prestissimo.data.beats import BeatGrid, find_beats
from prestissimo.nn.stft import MelConfig, log_mel

RATE = 44100 / 512


def clicks(bpm: float, phase: float, seconds: float, offbeat: float = 0.4) -> np.ndarray:
    """Onset strength with a hit on each beat and a weaker one between; `phase` beats have passed at the start."""
    beat = np.arange(round(seconds * RATE)) / RATE * bpm / 60 + phase
    near = np.exp(-0.5 * (((beat + 0.5) % 1 - 0.5) / 0.04) ** 2)
    return near + offbeat * np.exp(-0.5 * ((beat % 1 - 0.5) / 0.04) ** 2)


@pytest.mark.parametrize("bpm", [62.0, 97.3, 128.0, 174.0])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("seconds", [6.0, 32.0])
def test_beats_of_clicks(bpm: float, phase: float, seconds: float) -> None:
    found, clarity = find_beats(clicks(bpm, phase, seconds), RATE, bpm * 1.008, tolerance=0.02)
    assert found.tempo == pytest.approx(bpm, rel=0.02 if seconds < 10 else 0.003)
    assert abs((found.phase - phase + 0.5) % 1 - 0.5) < 0.1
    assert clarity > 0.3


def test_no_clear_beat_has_no_phase() -> None:
    assert np.isnan(find_beats(np.ones(512), RATE, 100.0)[0].phase)
    assert np.isnan(find_beats(np.zeros(512), RATE, 100.0)[0].phase)
    assert find_beats(np.ones(1), RATE, 100.0)[0].tempo == pytest.approx(100.0, rel=0.01)


@pytest.mark.parametrize(
    ("strength", "bpm"), [(np.ones(512), 0.0), (np.ones(512), np.nan), (np.ones(0), 100.0)]
)
def test_what_cannot_have_beats(strength: np.ndarray, bpm: float) -> None:
    with pytest.raises(ValueError, match="bpm must be positive"):
        find_beats(strength, RATE, bpm)


def test_beats_of_sound_are_where_it_clicks() -> None:
    """Clicks at 0.25 s, 0.75 s, ...: from audio, through its log-mel, to the beats that have passed at any start."""
    audio = torch.zeros(1, 2, 12 * 44100)
    click = torch.hann_window(441) * torch.randn(441, generator=torch.Generator().manual_seed(0))
    for at in range(11025, 12 * 44100 - 441, 22050):
        audio[0, :, at - 220 : at + 221] += click
    store = SimpleNamespace(mel=MelConfig(), log_mel=lambda track_id: log_mel(audio)[0])
    grid = BeatGrid(store)  # type: ignore[arg-type]
    for start in (0.0, 1.0, 3.3):
        found = grid.beats("clicks", start, 6.0, 121.0)
        assert found.tempo == pytest.approx(120.0, rel=0.01)
        error = found.phase - (start - 0.25) * 2
        assert (
            abs(error - math.floor(error + 0.5)) < 0.06
        )  # 30 ms: the strength rises a frame or two early or late
