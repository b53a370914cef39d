# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from prestissimo.data.analysis import (
    KEYS,
    WINDOW_SAMPLES,
    band_strengths,
    estimate_key,
    estimate_tempo,
    measure,
    onset_strength,
    window_starts,
)
from prestissimo.nn.stft import log_mel

RATE = 44100


def clicks(bpm, seconds, loud=0.5):
    """Decaying noise bursts on every beat, every fourth louder and lower."""
    rng = np.random.default_rng(0)
    audio = rng.normal(0, 1e-4, int(seconds * RATE))
    burst = np.exp(-np.arange(6000) / 900)
    for i, t in enumerate(np.arange(0.1, seconds - 0.3, 60 / bpm)):
        at = int(t * RATE)
        body = rng.normal(0, 1, 6000) if i % 4 else np.sin(2 * np.pi * 90 * np.arange(6000) / RATE) * 2
        audio[at : at + 6000] += loud * burst * body * (1.0 if i % 4 == 0 else 0.6)
    return audio.astype(np.float32)


def chords(roots_and_modes, seconds):
    """Major or minor triads as sums of six harmonics."""
    parts = []
    t = np.arange(int(seconds * RATE)) / RATE
    for root, minor in roots_and_modes:
        tones = [root, root + (3 if minor else 4), root + 7]
        parts.append(
            sum(
                np.sin(2 * np.pi * h * 440 * 2 ** ((p - 69) / 12) * t) / h**1.5
                for p in tones
                for h in range(1, 5)
            )
        )
    return (0.05 * np.concatenate(parts)).astype(np.float32)


def mel_of(audio):
    return log_mel(torch.from_numpy(audio)[None])[0].numpy()


@pytest.mark.parametrize("bpm", [66.0, 84.0, 100.0, 120.0, 138.0])
def test_tempo_of_clicks(bpm):
    mel = mel_of(np.stack([clicks(bpm, 15)] * 2))
    found, confidence = estimate_tempo(band_strengths(mel[0]))
    assert min(abs(found / bpm - 1), abs(found / bpm - 2), abs(found / bpm - 0.5)) < 0.03
    if 80 < bpm < 130:
        assert found == pytest.approx(bpm, rel=0.03)
    assert confidence > 0.2


def test_no_pulse_no_confidence():
    rng = np.random.default_rng(0)
    mel = mel_of(rng.normal(0, 0.1, (2, 15 * RATE)).astype(np.float32))
    assert estimate_tempo(band_strengths(mel[0]))[1] < 0.1
    assert estimate_tempo(np.zeros((4, 1000))) == (0.0, 0.0)
    assert estimate_tempo(np.ones((4, 10))) == (0.0, 0.0)


@pytest.mark.parametrize(("tonic", "minor"), [(0, False), (9, True), (6, False), (2, True)])
def test_key_of_cadences(tonic, minor):
    root = 48 + tonic
    degrees = [(root, minor), (root + 5, minor), (root + 7, False), (root, minor)]
    audio = np.stack([chords(degrees * 2, 1.5)] * 2)
    found = measure(audio, mel_of(audio))[0]
    assert (KEYS[found.key % 12], found.key >= 12) == (KEYS[tonic], minor)
    assert found.key_confidence > 0.1


def test_key_of_nothing_is_unsure():
    assert estimate_key(np.zeros(12))[1] == 0
    assert estimate_key(np.ones(12))[1] == 0


def test_onset_strength_peaks_where_notes_begin():
    mel = np.zeros((96, 400))
    mel[:, 200:] = 3.0
    strength = onset_strength(mel)
    assert np.argmax(strength) == 200
    assert strength[:150].max() == 0


def test_windows_tile_the_track_and_the_last_is_whole():
    assert window_starts(WINDOW_SAMPLES * 2) == [0, WINDOW_SAMPLES]
    assert window_starts(WINDOW_SAMPLES * 2 + 4096) == [0, WINDOW_SAMPLES, WINDOW_SAMPLES + 4096]
    assert window_starts(4096) == [0]


def test_measures_tell_loud_from_quiet_bright_from_dark_wide_from_narrow():
    n = WINDOW_SAMPLES
    t = np.arange(n) / RATE
    rng = np.random.default_rng(0)
    dark = np.stack([0.02 * np.sin(2 * np.pi * 80 * t)] * 2).astype(np.float32)
    bright = rng.normal(0, 0.2, (2, n)).astype(np.float32)
    (low,), (high,) = (measure(a, mel_of(a)) for a in (dark, bright))
    assert high.rms_db - low.rms_db == pytest.approx(10 * np.log10(2 * 0.2**2 / 2 / (0.02**2 / 2)), abs=0.1)
    assert low.centroid < 200 < 4000 < high.centroid
    assert low.width < -60
    assert high.width == pytest.approx(0, abs=0.5)
    assert low.bass > -1
    assert high.bass < -12
    hits = clicks(120, 6)[:n]
    (busy,) = measure(np.stack([hits, hits]), mel_of(np.stack([hits, hits])))
    assert 1.4 <= busy.onsets <= 3
