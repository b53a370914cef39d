# SPDX-License-Identifier: Apache-2.0
"""Short-time Fourier transform, its inverse and the mid/side log-mel spectrogram, in time-major layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prestissimo.ops.linear import linear

__all__ = [
    "MelConfig",
    "istft",
    "left_right",
    "log_mel",
    "mel_centres",
    "mel_filters",
    "mel_of",
    "mid_side",
    "stft",
]


@dataclass(frozen=True)
class MelConfig:
    """Constants of a log-mel spectrogram: log(mel + floor) of Hann-windowed frames centred at t * hop."""

    sample_rate: int = 44100
    n_fft: int = 2048
    hop: int = 512
    n_mels: int = 96
    floor: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "hop", "n_mels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        _check_frame(self.n_fft, self.hop)
        if not self.floor > 0:
            raise ValueError(f"floor must be positive, got {self.floor}")

    @property
    def bins(self) -> int:
        """Number of frequency bins of a frame, n_fft / 2 + 1."""
        return self.n_fft // 2 + 1

    def frames(self, samples: int) -> int:
        """Number of frames of `samples` samples, ceil(samples / hop)."""
        return -(-samples // self.hop)


def _check_frame(n_fft: int, hop: int) -> None:
    if n_fft % 2 or hop < 1 or n_fft % hop or n_fft // hop < 4:
        raise ValueError(f"hop must divide an even n_fft at least 4 times, got hop {hop} and n_fft {n_fft}")


def mid_side(audio: Tensor) -> Tensor:
    """((L + R) / 2, (L - R) / 2): left/right (..., 2, N) to mid/side (..., 2, N)."""
    left, right = audio.unbind(-2)
    return torch.stack([(left + right) / 2, (left - right) / 2], -2)


def left_right(audio: Tensor) -> Tensor:
    """(M + S, M - S): mid/side (..., 2, N) to left/right (..., 2, N)."""
    mid, side = audio.unbind(-2)
    return torch.stack([mid + side, mid - side], -2)


# A tensor made under inference mode cannot be saved for a later backward, so the caches leave that mode.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _hann(n_fft: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.hann_window(n_fft, periodic=True, dtype=torch.float64).to(device, dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _inverse_envelope(n_fft: int, hop: int, frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # 1 / sum of the squared windows over every sample; n_fft / hop >= 4 keeps the sum over 1/4 at both ends.
    overlap = n_fft // hop
    square = _hann(n_fft, torch.float64, torch.device("cpu")).square().view(overlap, hop)
    envelope = torch.zeros(frames + overlap - 1, hop, dtype=torch.float64)
    for r in range(overlap):
        envelope[r : r + frames] += square[r]
    inside = envelope.flatten()[n_fft // 2 :][: frames * hop]
    return inside.reciprocal().to(device, dtype)


def stft(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """X[t, f] = sum_n w[n] x[t hop + n - n_fft/2] exp(-2 pi i f n / n_fft), Hann window w, zeros outside x.

    audio: (..., N) real. Returns (..., T, n_fft/2 + 1) complex with T = ceil(N / hop).
    Raises ValueError for an empty signal, and for a hop that does not divide n_fft at least four times.

    >>> stft(torch.zeros(2, 1000), 64, 16).shape
    torch.Size([2, 63, 33])
    """
    _check_frame(n_fft, hop)
    samples = audio.shape[-1]
    if samples < 1:
        raise ValueError("audio must hold at least one sample, got 0")
    frames = -(-samples // hop)
    right = (frames - 1) * hop + n_fft // 2 - samples
    framed = F.pad(audio, (n_fft // 2, right)).unfold(-1, n_fft, hop)
    return torch.fft.rfft(framed * _hann(n_fft, audio.dtype, audio.device))


def istft(spectrum: Tensor, n_fft: int, hop: int, length: int | None = None) -> Tensor:
    """Least-squares inverse of `stft` (Griffin and Lim 1984, eq. 6): windowed overlap-add over sum w^2.

    spectrum: (..., T, n_fft/2 + 1) complex. Returns (..., T * hop) real, cut to `length` samples.
    Raises ValueError for a wrong number of bins and for a length over T * hop.
    """
    _check_frame(n_fft, hop)
    *lead, frames, bins = spectrum.shape
    if bins != n_fft // 2 + 1:
        raise ValueError(f"spectrum must have {n_fft // 2 + 1} bins, got {bins}")
    if length is not None and not 0 < length <= frames * hop:
        raise ValueError(f"length must be in 1 ... {frames * hop}, got {length}")
    framed = torch.fft.irfft(spectrum, n_fft)
    framed = framed * _hann(n_fft, framed.dtype, framed.device)
    overlap = n_fft // hop
    framed = framed.view(*lead, frames, overlap, hop)
    signal = framed.new_zeros(*lead, frames + overlap - 1, hop)
    for r in range(overlap):
        signal[..., r : r + frames, :] += framed[..., r, :]
    inside = signal.flatten(-2)[..., n_fft // 2 :][..., : frames * hop]
    audio = inside * _inverse_envelope(n_fft, hop, frames, framed.dtype, framed.device)
    return audio if length is None else audio[..., :length]


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    # Slaney's scale: linear, 200/3 Hz a mel, up to 1 kHz; then 27 mels for each factor of 6.4.
    return np.where(hz < 1000.0, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000.0) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp((mel - 15) * np.log(6.4) / 27))


def mel_centres(sample_rate: int, n_mels: int) -> np.ndarray:
    """Frequencies in Hz of the n_mels + 2 edges of the filters; filter m peaks at entry m + 1. float64."""
    top = _hz_to_mel(np.asarray(sample_rate / 2))
    return _mel_to_hz(np.linspace(0.0, top, n_mels + 2))


@lru_cache(maxsize=16)
def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangular filters of unit area on Slaney's mel scale (Auditory Toolbox, 1998), 0 Hz to Nyquist.

    Returns a read-only float32 array (n_mels, n_fft/2 + 1): a row times a magnitude frame is one mel band.

    >>> mel_filters(44100, 2048, 96).shape
    (96, 1025)
    """
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    edges = mel_centres(sample_rate, n_mels)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangle = np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid))
    filters = (np.maximum(triangle, 0.0) * 2 / (high - low)).astype(np.float32)
    filters.flags.writeable = False
    return filters


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _filters(config: MelConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    filters = mel_filters(config.sample_rate, config.n_fft, config.n_mels)
    return torch.from_numpy(filters.copy()).to(device, dtype)


def mel_of(magnitude: Tensor, config: MelConfig, by_reference: bool = False) -> Tensor:
    """log(magnitude @ filters^T + floor): linear magnitudes (..., T, bins) to log-mel (..., T, n_mels).

    Through `ops.linear`, whose bits no number of threads changes (MKL's do on Intel processors); in plain PyTorch with
    `by_reference`.
    """
    product = F.linear if by_reference else linear
    return (product(magnitude, _filters(config, magnitude.dtype, magnitude.device)) + config.floor).log()


def log_mel(audio: Tensor, config: MelConfig | None = None, by_reference: bool = False) -> Tensor:
    """log(mel |STFT| + floor) of mid and side: left/right (B, 2, N) to (B, 2, n_mels, ceil(N / hop)).

    Channel 0 is mid = (L + R) / 2, channel 1 is side = (L - R) / 2. Differentiable. The dtype is kept.
    Raises ValueError where audio is not (B, 2, N) with N >= 1.
    """
    config = config or MelConfig()
    if audio.ndim != 3 or audio.shape[1] != 2 or audio.shape[2] < 1:
        raise ValueError(f"audio must be (B, 2, N) with N >= 1, got {tuple(audio.shape)}")
    spectrum = stft(mid_side(audio), config.n_fft, config.hop)
    return mel_of(spectrum.abs(), config, by_reference).transpose(2, 3)
