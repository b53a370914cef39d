# SPDX-License-Identifier: Apache-2.0
"""MagNet: from a log-mel spectrogram to the log-magnitudes of linear frequency bins, with their noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prestissimo import ops
from prestissimo.nn.layers import Kernels
from prestissimo.nn.stft import MelConfig, mel_centres, mel_filters, stft
from prestissimo.ops.spectrum_from_bands import interpolation

__all__ = ["MagNet", "MagNetConfig", "noise_texture"]


@dataclass(frozen=True)
class MagNetConfig:
    """Size of a MagNet. `fold` mel frames of both channels make one token of the trunk.

    spread_bands is the number of bands, evenly spaced in mel, in which the spread is predicted; kernel is the
    (odd) width in tokens of the depthwise convolutions; texture_frames the period of the noise.
    """

    width: int = 288
    blocks: int = 6
    expansion: int = 3
    kernel: int = 7
    fold: int = 2
    spread_bands: int = 32
    texture_frames: int = 512

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "expansion", "kernel", "fold", "texture_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if self.spread_bands < 2:
            raise ValueError(f"spread_bands must be at least 2, got {self.spread_bands}")


def _interpolation(source: np.ndarray, target: np.ndarray) -> Tensor:
    # (source, target) matrix of linear interpolation between points, constant beyond both ends
    columns = [np.interp(target, source, unit) for unit in np.eye(len(source))]
    return torch.from_numpy(np.stack(columns).astype(np.float32))


class MagNetBlock(nn.Module):
    """x + g * W2 gelu(W1 LN(depthwise(x))): a ConvNeXt block over (B, T, C) without norms over time."""

    def __init__(self, width: int, expansion: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.gain = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor, net: Kernels) -> Tensor:
        dw, by_time = self.depthwise, x.transpose(1, 2)
        fused = not net.by_reference and not torch.is_autocast_enabled(x.device.type)
        if fused:
            h = ops.conv1d(by_time, dw.weight, dw.bias, dw.kernel_size[0] // 2, groups=dw.groups).transpose(
                1, 2
            )
        else:
            h = dw(by_time).transpose(1, 2)
        h = net.adaln_modulate(h.to(x.dtype).contiguous(), weight=self.norm_weight, bias=self.norm_bias)
        h = self.contract(F.gelu(self.expand(h), approximate="tanh"))
        if fused:
            return ops.gated_residual(x, h, self.gain.expand(x.shape[0], -1))
        return x + self.gain * h


class MagNet(Kernels):
    """log|X| = (mel - log area) interpolated + residual(mel), and the spread of log|X| about it.

    The trunk sees `fold` frames as one token, so it is local in time: an output frame depends on
    `context_frames` frames on either side and nothing is normalised over time.
    """

    interpolate: Tensor
    log_area: Tensor
    bin_log_area: Tensor
    spread_interpolate: Tensor
    band_lower: Tensor
    band_share: Tensor
    spread_lower: Tensor
    spread_share: Tensor

    def __init__(self, config: MagNetConfig, mel: MelConfig, kernels: str = "auto") -> None:
        super().__init__(kernels)
        self.config, self.mel = config, mel
        width, fold = config.width, config.fold
        self.embed = nn.Linear(2 * mel.n_mels * fold, width)
        self.blocks = nn.ModuleList(
            MagNetBlock(width, config.expansion, config.kernel) for _ in range(config.blocks)
        )
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.residual = nn.Linear(width, 2 * mel.bins * fold)
        self.spread = nn.Linear(width, 2 * config.spread_bands * fold)
        nn.init.normal_(self.residual.weight, std=0.01)
        nn.init.zeros_(self.residual.bias)
        nn.init.normal_(self.spread.weight, std=0.01)
        nn.init.constant_(self.spread.bias, math.log(0.5))

        bins = np.linspace(0.0, mel.sample_rate / 2, mel.bins)
        centres = mel_centres(mel.sample_rate, mel.n_mels)[1:-1]
        self.register_buffer("interpolate", _interpolation(centres, bins), persistent=False)
        area = np.log(mel_filters(mel.sample_rate, mel.n_fft, mel.n_mels).sum(1))
        self.register_buffer("log_area", torch.from_numpy(area), persistent=False)
        self.register_buffer("bin_log_area", torch.from_numpy(area) @ self.interpolate, persistent=False)
        bands = mel_centres(mel.sample_rate, config.spread_bands - 2)
        self.register_buffer("spread_interpolate", _interpolation(bands, bins), persistent=False)
        for name, source in (("band", centres), ("spread", bands)):
            lower, share = interpolation(source, bins)
            self.register_buffer(f"{name}_lower", torch.from_numpy(lower), persistent=False)
            self.register_buffer(f"{name}_share", torch.from_numpy(share), persistent=False)

    @property
    def context_frames(self) -> int:
        """Mel frames on either side that an output frame may depend on."""
        return self.config.fold * (self.config.blocks * (self.config.kernel // 2) + 1)

    def trunk(self, log_mel: Tensor) -> Tensor:
        """log-mel (B, 2, M, F) to what the heads read, (B, F / fold, width).

        Raises ValueError where F is no multiple of `fold` or M is not the configuration's.
        """
        if log_mel.ndim != 4 or log_mel.shape[1] != 2 or log_mel.shape[2] != self.mel.n_mels:
            raise ValueError(f"log_mel must be (B, 2, {self.mel.n_mels}, F), got {tuple(log_mel.shape)}")
        items, _, bands, frames = log_mel.shape
        fold = self.config.fold
        if frames % fold:
            raise ValueError(f"log_mel must have a multiple of {fold} frames, got {frames}")
        tokens = log_mel.permute(0, 3, 1, 2).reshape(items, frames // fold, fold * 2 * bands)
        # under autocast the residual stream stays as it came
        h = self.embed((tokens + 3) / 3).to(log_mel.dtype)
        for block in self.blocks:
            h = block(h, self)
        return self.adaln_modulate(h.contiguous(), weight=self.norm_weight, bias=self.norm_bias)

    def heads(self, h: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Of `trunk` to the residual (B, 2, F, bins) and the log-spreads of bands (B, 2, F, spread_bands)."""

        def unfold(values: Tensor) -> Tensor:  # (B, F / fold, fold * 2 * K) to (B, 2, F, K)
            frames = h.shape[1] * self.config.fold
            return values.view(h.shape[0], frames, 2, -1).transpose(1, 2).to(dtype)

        spread = unfold(self.spread(h)).clamp(-6.0, 2.0)
        return unfold(self.residual(h)), spread

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """log-mel (B, 2, M, F) to log-magnitudes and log-spreads, both (B, 2, F, bins).

        The spread is the mean absolute deviation of log|X| from the first output, in nats. Raises as `trunk`.
        """
        residual, spread = self.heads(self.trunk(log_mel), log_mel.dtype)
        with torch.autocast(log_mel.device.type, enabled=False):
            base = (log_mel.transpose(2, 3) - self.log_area) @ self.interpolate
            return base + residual, spread @ self.spread_interpolate


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def noise_texture(frames: int, n_fft: int, hop: int) -> Tensor:
    """log|STFT| of white noise of period `frames` frames, minus its median: (2, frames, bins) float32.

    Its neighbours in time and frequency are correlated as those of any noise seen through this window. The
    mean absolute value is that of a Rayleigh variable's logarithm about its median, 0.475 nats.
    """
    generator = torch.Generator().manual_seed(0x9E3779B9)
    period = torch.randn(2, frames * hop, generator=generator, dtype=torch.float64)
    wrapped = torch.cat([period[:, -n_fft:], period, period[:, :n_fft]], 1)
    lead = n_fft // hop
    magnitude = stft(wrapped, n_fft, hop)[:, lead : lead + frames].abs()
    # the real-valued ends of the spectrum, 0 Hz and Nyquist, have no Rayleigh magnitude: quieten their dips
    log = magnitude.clamp_min(1e-3 * float(magnitude.mean())).log()
    return (log - log.median()).float()
