# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prestissimo.metrics.spectrum import band_energies, log_mel_l1, side_mid_ratio, spectral_profile


def tone(hz: float, left: float = 1.0, right: float = 1.0, seconds: float = 1.0) -> torch.Tensor:
    t = torch.arange(int(44_100 * seconds)) / 44_100
    wave = torch.sin(2 * torch.pi * hz * t)
    return torch.stack([left * wave, right * wave])[None]


@pytest.mark.parametrize(("hz", "band"), [(440.0, 0), (5_000.0, 1), (12_000.0, 2)])
def test_a_tone_lies_in_its_band(hz: float, band: int) -> None:
    energy = band_energies(tone(hz))[0]
    assert energy.argmax() == band
    others = [i for i in range(3) if i != band]
    assert (energy[band] - energy[others] > 40).all()


def test_gain_is_decibels() -> None:
    x = tone(440.0) + 0.5 * tone(5_000.0) + 0.25 * tone(12_000.0)
    torch.testing.assert_close(band_energies(0.1 * x), band_energies(x) - 20, atol=1e-3, rtol=0)
    difference = band_energies(x)[0]
    assert (difference[0] - difference[1]).item() == pytest.approx(6.02, abs=0.05)
    assert (difference[1] - difference[2]).item() == pytest.approx(6.02, abs=0.05)


@pytest.mark.parametrize(
    ("left", "right", "expected"), [(1, 0, 0.0), (1, 0.5, -9.54), (1, -0.5, 9.54), (0.5, 1, -9.54)]
)
def test_side_over_mid(left: float, right: float, expected: float) -> None:
    assert side_mid_ratio(tone(440.0, left, right)).item() == pytest.approx(expected, abs=0.01)


def test_mono_and_silence_are_finite() -> None:
    assert side_mid_ratio(tone(440.0)).item() < -80
    silence = torch.zeros(1, 2, 4_096)
    assert torch.isfinite(side_mid_ratio(silence)).all()
    assert torch.isfinite(band_energies(silence)).all()


def test_log_mel_l1_of_a_gain_is_its_logarithm() -> None:
    noise = torch.randn(1, 2, 44_100, generator=torch.Generator().manual_seed(0))
    assert log_mel_l1(noise, noise).item() == 0
    # far above the floor of 1e-3 the logarithm of the gain is all that differs
    assert log_mel_l1(noise, 2 * noise).item() == pytest.approx(0.6931, abs=0.02)


def test_profile_does_not_depend_on_loudness_or_length() -> None:
    x = torch.cat([tone(440.0, 1, 0.5, seconds=s) + 0.1 * tone(6_000.0, seconds=s) for s in (2.0,)])[0]
    a, b = spectral_profile([x]), spectral_profile([0.2 * x[:, :44_100]])
    assert a.keys() == {"0-4 kHz", "4-8 kHz", "8-16 kHz", "side/mid"}
    assert a["4-8 kHz"] == pytest.approx(b["4-8 kHz"], abs=0.1)
    assert a["0-4 kHz"] == pytest.approx(0, abs=0.2)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="audio must be"):
        band_energies(torch.zeros(2, 100))
    with pytest.raises(ValueError, match="one shape"):
        log_mel_l1(torch.zeros(1, 2, 100), torch.zeros(1, 2, 101))
    with pytest.raises(ValueError, match="clips"):
        spectral_profile([])
