# SPDX-License-Identifier: Apache-2.0
"""The picture shows what is there: a tone where its frequency is, silence where there is none."""

from __future__ import annotations

import importlib.util
import io

import numpy as np
import pytest

from prestissimo.cli import picture

RATE = 44100


def test_the_spectrogram_has_the_tone_at_its_frequency():
    t = np.arange(2 * RATE) / RATE
    mono = np.where(t < 1, np.sin(2 * np.pi * 1000 * t), 0).astype(np.float32)
    levels, hop, size = picture._spectrogram(mono)
    frame = round(0.5 * RATE / hop)
    assert abs(levels[:, frame].argmax() * RATE / size - 1000) < RATE / size
    assert levels.max() == pytest.approx(0.0, abs=1e-4)
    assert levels[:, round(1.5 * RATE / hop)].max() == pytest.approx(-120.0)


def test_the_envelope_holds_every_peak():
    sound = np.zeros((2, RATE), np.float32)
    sound[0, 12345], sound[1, 777] = 0.9, -0.8
    low, high = picture._envelope(sound, 100)
    assert (high[0].max(), low[1].min()) == (np.float32(0.9), np.float32(-0.8))
    assert low.shape == (2, 100)


@pytest.mark.parametrize("seconds", [0.0001, 0.5, 130.0])
def test_any_length_and_title_is_drawn(seconds):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    sound = np.random.default_rng(0).normal(0, 0.1, (2, max(1, int(seconds * RATE)))).astype(np.float32)
    image = matplotlib_image.imread(io.BytesIO(picture.draw(sound, RATE, "a $\\frac{1}{0} _ title")))
    assert image.shape[:2] == (700, 1200)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "prestissimo\[plot\]"'):
        picture.require_matplotlib()
