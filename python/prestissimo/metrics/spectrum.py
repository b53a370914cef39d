# SPDX-License-Identifier: Apache-2.0
"""Spectral measures at the full sample rate: what 16 kHz mono judges cannot hear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prestissimo.nn.stft import MelConfig, log_mel, mid_side, stft

BANDS_HZ = ((0.0, 4_000.0), (4_000.0, 8_000.0), (8_000.0, 16_000.0))
_N_FFT, _HOP = 2048, 512
_FLOOR = 1e-3  # energy of silence: 0 dB below any real clip by some 60 dB


def _mid_side_power(audio: Tensor) -> Tensor:
    """|STFT|^2 of mid and side: (B, 2, N) -> (B, 2, T, bins)."""
    if audio.ndim != 3 or audio.shape[1] != 2:
        raise ValueError(f"audio must be (B, 2, N), got {tuple(audio.shape)}")
    spectrum = stft(mid_side(audio), _N_FFT, _HOP)
    return spectrum.real**2 + spectrum.imag**2


def band_energies(audio: Tensor, sample_rate: int = 44_100) -> Tensor:
    """10 log10 of the energy of mid + side in 0-4, 4-8 and 8-16 kHz: (B, 2, N) -> (B, 3) dB.

    The zero of the scale is arbitrary; differences between clips of one length are what counts.
    """
    power = _mid_side_power(audio).sum(dim=(1, 2))
    f = torch.arange(power.shape[-1], device=audio.device) * (sample_rate / _N_FFT)
    bands = [power[:, (f >= low) & (f < high)].sum(dim=1) for low, high in BANDS_HZ]
    return 10 * torch.log10(torch.stack(bands, dim=1) + _FLOOR)


def side_mid_ratio(audio: Tensor) -> Tensor:
    """10 log10(energy of (L - R) / 2 over energy of (L + R) / 2): (B, 2, N) -> (B,) dB; mono is very low."""
    energy = mid_side(audio).square().sum(dim=-1)
    scale = torch.finfo(energy.dtype).tiny
    return 10 * torch.log10((energy[:, 1] + 1e-9 * energy[:, 0] + scale) / (energy[:, 0] + scale))


def log_mel_l1(a: Tensor, b: Tensor, config: MelConfig | None = None) -> Tensor:
    """mean |logmel(a) - logmel(b)| over mid and side, in nats: two (B, 2, N) -> (B,)."""
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return (log_mel(a, config) - log_mel(b, config)).abs().mean(dim=(1, 2, 3))


def spectral_profile(clips: Sequence[Tensor], sample_rate: int = 44_100) -> dict[str, float]:
    """Medians over clips: the share of each band in the whole energy (dB) and the side/mid ratio (dB).

    Shares do not depend on the clips' loudness or length, so sets of different music can be compared.
    """
    if not len(clips):
        raise ValueError("clips must hold at least one clip")
    shares, ratios = [], []
    for clip in clips:
        power = torch.pow(10.0, band_energies(clip[None], sample_rate)[0] / 10)
        shares.append(10 * torch.log10(power / power.sum()))
        ratios.append(side_mid_ratio(clip[None])[0])
    medians = torch.stack(shares).median(dim=0).values
    names = [f"{int(low / 1000)}-{int(high / 1000)} kHz" for low, high in BANDS_HZ]
    return {
        **{name: float(value) for name, value in zip(names, medians, strict=True)},
        "side/mid": float(torch.stack(ratios).median()),
    }
