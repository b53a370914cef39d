# SPDX-License-Identifier: Apache-2.0
"""The decoder to beat: multiplicative inverse mel and fast Griffin-Lim, as most mel pipelines use them."""

from __future__ import annotations

import torch
from torch import Tensor

from prestissimo.nn.stft import MelConfig, istft, left_right, mel_filters, stft


@torch.no_grad()
def inverse_mel(log_mel: Tensor, config: MelConfig, rounds: int = 30) -> Tensor:
    """Log-mel (B, 2, n_mels, F) to magnitudes (B, 2, F, bins): multiplicative least squares."""
    filters = torch.from_numpy(mel_filters(config.sample_rate, config.n_fft, config.n_mels).copy())
    mel = (log_mel.exp() - config.floor).clamp_min(0).transpose(2, 3)
    magnitude = (mel @ torch.linalg.pinv(filters).T).clamp_min(1e-5)
    area = filters.sum(0) + 1e-8
    for _ in range(rounds):
        ratio = mel / (magnitude @ filters.T + 1e-8)
        magnitude = magnitude * ((ratio @ filters) / area).clamp(0, 10)
    return magnitude


@torch.no_grad()
def griffin_lim(magnitude: Tensor, config: MelConfig, rounds: int = 48, momentum: float = 0.9) -> Tensor:
    """Magnitudes (B, 2, F, bins) of mid and side to left/right audio (B, 2, F * hop).

    Random initial phases; momentum as in Perraudin, Balazs and Sondergaard 2013.
    """
    n_fft, hop = config.n_fft, config.hop
    generator = torch.Generator().manual_seed(0)
    phase = torch.rand(magnitude.shape, generator=generator, dtype=magnitude.dtype) * (2 * torch.pi)
    phasor, previous = torch.polar(torch.ones_like(phase), phase), None
    for _ in range(rounds):
        spectrum = stft(istft(magnitude * phasor, n_fft, hop), n_fft, hop)
        step = spectrum if previous is None else spectrum + momentum * (spectrum - previous)
        phasor, previous = step / (step.abs() + 1e-9), spectrum
    return left_right(istft(magnitude * phasor, n_fft, hop))
