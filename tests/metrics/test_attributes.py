# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from prestissimo.metrics import attributes
from prestissimo.metrics.attributes import (
    PITCH_CLASSES,
    chroma,
    key,
    key_of_chroma,
    measure_attributes,
    spectral_centroid,
    tempo,
    tempo_matches,
)

RATE = 44_100


def stereo(mono: torch.Tensor) -> torch.Tensor:
    return mono.float().repeat(2, 1)


def pulse(bpm: float, seconds: float = 8.0, seed: int = 0, jitter: float = 0.0) -> torch.Tensor:
    """A kick on each beat, a hat between, over quiet noise; ``jitter`` moves each hit, in seconds."""
    rng = np.random.default_rng(seed)
    n = int(RATE * seconds)
    out = 0.002 * rng.normal(size=n)
    t = np.arange(int(0.15 * RATE)) / RATE
    kick = 0.8 * np.sin(2 * np.pi * 60 * t) * np.exp(-20 * t)
    hat = 0.1 * rng.normal(size=len(t)) * np.exp(-60 * t)
    for i in range(int(seconds * bpm / 60)):
        for hit, where in ((kick, i), (hat, i + 0.5)):
            at = int(max((where * 60 / bpm + jitter * rng.normal()) * RATE, 0))
            piece = hit[: max(n - at, 0)]
            out[at : at + len(piece)] += piece
    return stereo(torch.from_numpy(out))


def chords(triads: list[tuple[int, int, int]], seconds: float = 1.0) -> torch.Tensor:
    t = torch.arange(int(RATE * seconds)) / RATE
    tones = [
        sum(
            torch.sin(2 * torch.pi * 440 * 2 ** ((m - 69) / 12) * h * t) / h for m in triad for h in (1, 2, 3)
        )
        * torch.exp(-t)
        for triad in triads
    ]
    return stereo(0.05 * torch.cat(tones))


@pytest.mark.parametrize("bpm", [62, 75, 90, 104, 120, 133, 150, 178])
def test_tempo_of_a_pulse(bpm: float) -> None:
    found = tempo(pulse(bpm, jitter=0.01))
    assert tempo_matches(found.bpm, bpm)
    assert found.strength > 0.2


def test_tempo_is_the_octave_near_the_prior() -> None:
    for bpm in (80, 96, 120):
        assert tempo(pulse(bpm)).bpm == pytest.approx(bpm, rel=0.02)


def test_no_pulse_has_less_strength_than_a_pulse() -> None:
    noise = stereo(0.1 * torch.randn(RATE * 8, generator=torch.Generator().manual_seed(0)))
    assert tempo(noise).strength < 0.5 * tempo(pulse(110)).strength
    assert tempo(torch.zeros(2, RATE * 8)) == (0, 0)
    assert tempo(pulse(110, seconds=2.0)) == (0, 0)


@pytest.mark.parametrize(
    ("found", "asked", "same"),
    [
        (120, 120, True),
        (124.7, 120, True),
        (125.5, 120, False),
        (60, 120, True),
        (241, 120, True),
        (80, 120, False),
    ],
)
def test_tempo_matches(found: float, asked: float, same: bool) -> None:
    assert tempo_matches(found, asked) is same
    assert not tempo_matches(0.0, asked)


@pytest.mark.parametrize("tonic", [0, 3, 7, 10])
def test_key_of_cadences(tonic: int) -> None:
    root = 57 + tonic
    major = [(0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)]
    minor = [(0, 3, 7), (5, 8, 12), (7, 10, 14), (0, 3, 7)]
    for mode, progression in (("major", major), ("minor", minor)):
        found = key(chords([(root + a, root + b, root + c) for a, b, c in progression]))
        assert (found.tonic, found.mode) == ((9 + tonic) % 12, mode)
        assert found.clarity > 0.6


def test_key_of_a_profile_is_itself() -> None:
    for tonic in range(12):
        found = key_of_chroma(np.roll(np.array(attributes._MINOR), tonic))
        assert (found.tonic, found.mode) == (tonic, "minor")
        assert found.clarity == pytest.approx(1)
        assert str(found) == f"{PITCH_CLASSES[tonic]} minor"
    assert key_of_chroma(np.ones(12)).clarity == 0
    with pytest.raises(ValueError, match="vector"):
        key_of_chroma(np.ones(13))


def test_profiles_are_shares() -> None:
    assert sum(attributes._MAJOR) == pytest.approx(1, abs=0.02)
    assert sum(attributes._MINOR) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("midi", [45, 57, 60, 66, 71, 81])
def test_chroma_of_a_note(midi: int) -> None:
    t = torch.arange(RATE) / RATE
    shares = chroma(stereo(torch.sin(2 * torch.pi * 440 * 2 ** ((midi - 69) / 12) * t)))
    assert shares.mean(axis=1).argmax() == midi % 12
    assert shares[midi % 12].mean() > 0.7
    assert not chroma(torch.zeros(2, RATE)).any()


def test_centroid_of_tones() -> None:
    t = torch.arange(RATE) / RATE
    low, high = torch.sin(2 * torch.pi * 500 * t), torch.sin(2 * torch.pi * 4_500 * t)
    assert spectral_centroid(stereo(low)) == pytest.approx(500, rel=0.03)
    assert spectral_centroid(stereo(low + high)) == pytest.approx(2_500, rel=0.05)
    assert spectral_centroid(torch.zeros(2, RATE)) == 0


def test_measures_order_opposite_clips() -> None:
    sparse, dense = measure_attributes(pulse(62)), measure_attributes(pulse(178))
    assert sparse.onset_rate == pytest.approx(2 * 62 / 60, rel=0.25)
    assert dense.onset_rate == pytest.approx(2 * 178 / 60, rel=0.25)
    assert dense.flux > 1.5 * sparse.flux
    calm = measure_attributes(chords([(57, 61, 64)] * 2, seconds=3.0))
    assert calm.flux < sparse.flux
    assert calm.onset_rate < 1
    loud = pulse(120)
    difference = measure_attributes(loud).loudness - measure_attributes(0.5 * loud).loudness
    assert difference == pytest.approx(6.02, abs=0.1)
    thin, thick = chords([(57, 57, 57)]), chords([(45, 61, 76)]) + 0.1 * pulse(120, seconds=1.0)
    assert measure_attributes(thick).bands_active > measure_attributes(thin).bands_active


def test_silence_and_bad_clips() -> None:
    silent = measure_attributes(torch.zeros(2, RATE * 4))
    assert (silent.loudness, silent.centroid, silent.onset_rate, silent.flux, silent.bands_active) == (
        -70,
        0,
        0,
        0,
        0,
    )
    with pytest.raises(ValueError, match="clip must be"):
        measure_attributes(torch.zeros(RATE))
    with pytest.raises(ValueError, match=r"0\.5 s"):
        measure_attributes(torch.zeros(2, 1_000))
