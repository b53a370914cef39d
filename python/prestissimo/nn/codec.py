# SPDX-License-Identifier: Apache-2.0
"""The mel codec: principal components of log-mel patches; back by a network for magnitudes, and a phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prestissimo.nn.layers import Kernels
from prestissimo.nn.magnitudes import MagNet, MagNetConfig, noise_texture
from prestissimo.nn.phase import initial_state, inverse_stft, peak_phase, project_phase
from prestissimo.nn.stft import MelConfig, left_right, log_mel
from prestissimo.ops.spectrum_from_bands import Interpolation, spectrum_from_bands
from prestissimo.ops.spectrum_from_bands import reference as spectrum_from_bands_reference

__all__ = ["MelCodec", "MelCodecConfig", "patches_of"]

_RAYLEIGH_SPREAD = 0.475  # E|log R - median(log R)| of a Rayleigh variable R: the spread of pure noise


@dataclass(frozen=True)
class MelCodecConfig:
    """Constants of a `MelCodec`.

    channels principal components stand for patch_frames mel frames; latent_std is the standard deviation of
    all latents together; phase_rounds counts Griffin-Lim rounds; texture scales the noise that magnitudes are
    given back.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    magnet: MagNetConfig = field(default_factory=MagNetConfig)
    patch_frames: int = 8
    channels: int = 128
    latent_std: float = 0.5
    phase_rounds: int = 2
    texture: float = 0.0

    def __post_init__(self) -> None:
        if self.patch_frames < 1 or self.patch_frames % self.magnet.fold:
            raise ValueError(
                f"patch_frames must be a multiple of {self.magnet.fold}, got {self.patch_frames}"
            )
        if not 1 <= self.channels <= self.patch_size:
            raise ValueError(f"channels must be in 1 ... {self.patch_size}, got {self.channels}")
        if not self.latent_std > 0:
            raise ValueError(f"latent_std must be positive, got {self.latent_std}")
        if self.phase_rounds < 0:
            raise ValueError(f"phase_rounds must not be negative, got {self.phase_rounds}")

    @property
    def patch_size(self) -> int:
        """Values of one patch: frames, mid and side, mel bands."""
        return self.patch_frames * 2 * self.mel.n_mels

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return self.patch_frames * self.mel.hop

    @property
    def sample_rate(self) -> int:
        return self.mel.sample_rate

    @property
    def latent_rate(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MelCodecConfig:
        """The inverse of `to_dict`. Raises TypeError for unknown names, ValueError for wrong values."""
        rest = {name: value for name, value in values.items() if name not in ("mel", "magnet")}
        mel, magnet = MelConfig(**values.get("mel", {})), MagNetConfig(**values.get("magnet", {}))
        return cls(mel=mel, magnet=magnet, **rest)


def patches_of(mel: Tensor, config: MelCodecConfig) -> Tensor:
    """Log-mel (B, 2, n_mels, T * patch_frames) to patches (B, T, patch_size), frames outermost in a patch."""
    if mel.ndim != 4 or mel.shape[1:3] != (2, config.mel.n_mels) or mel.shape[3] % config.patch_frames:
        expected = f"(B, 2, {config.mel.n_mels}, a multiple of {config.patch_frames})"
        raise ValueError(f"mel must be {expected}, got {tuple(mel.shape)}")
    return mel.permute(0, 3, 1, 2).reshape(mel.shape[0], -1, config.patch_size)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _texture_of(config: MelCodecConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The noise that magnitudes are given back, (2, texture_frames, bins)."""
    noise = noise_texture(config.magnet.texture_frames, config.mel.n_fft, config.mel.hop)
    return (config.texture * noise).to(device, dtype)


class MelCodec(Kernels):
    """audio <-> latents: z = scale * V (log-mel patch - mean); back through V^T, MagNet and a phase.

    V are orthonormal principal components, `scale` one factor per component that also brings the latents
    together to `latent_std`. Every stage of decoding is public and differentiable in the latents; the phase
    is computed without gradient and held constant. A stage looks at a bounded number of neighbours, except
    the phase, whose state is handed on: `decode_tiled` equals `decode_waveform`.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor
    gain: Tensor

    def __init__(self, config: MelCodecConfig | None = None, kernels: str = "auto") -> None:
        super().__init__(kernels)
        self.config = config = config or MelCodecConfig()
        self.register_buffer("mean", torch.zeros(config.patch_size))
        self.register_buffer("components", torch.eye(config.channels, config.patch_size))
        self.register_buffer("scale", torch.ones(config.channels))
        self.register_buffer("gain", torch.zeros(2, config.mel.bins))  # nats per channel and bin
        self.magnet = MagNet(config.magnet, config.mel, kernels)

    def latent_frames(self, samples: int) -> int:
        """Latent frames of `samples` samples, ceil(samples / hop)."""
        return -(-samples // self.config.hop)

    def encode(self, audio: Tensor) -> Tensor:
        """Left/right audio (B, 2, N) in [-1, 1] to latents (B, channels, ceil(N / hop)). Differentiable."""
        if audio.ndim != 3 or audio.shape[1] != 2 or audio.shape[2] < 1:
            raise ValueError(f"audio must be (B, 2, N) with N >= 1, got {tuple(audio.shape)}")
        missing = -audio.shape[2] % self.config.hop
        return self.encode_log_mel(log_mel(F.pad(audio, (0, missing)), self.config.mel, self.by_reference))

    def encode_log_mel(self, mel: Tensor) -> Tensor:
        """Log-mel (B, 2, n_mels, T * patch_frames) to latents (B, channels, T)."""
        patches = patches_of(mel, self.config)
        return (self.linear(patches - self.mean, self.components) * self.scale).transpose(1, 2)

    def decode_log_mel(self, latents: Tensor) -> Tensor:
        """Latents (B, channels, T) to mid/side log-mel (B, 2, n_mels, T * patch_frames), linearly."""
        config = self.config
        if latents.ndim != 3 or latents.shape[1] != config.channels or latents.shape[2] < 1:
            raise ValueError(f"latents must be (B, {config.channels}, T), got {tuple(latents.shape)}")
        patches = self.linear(latents.transpose(1, 2) / self.scale, self.components.T, self.mean)
        frames = latents.shape[2] * config.patch_frames
        return patches.view(latents.shape[0], frames, 2, config.mel.n_mels).permute(0, 2, 3, 1)

    def magnitudes_of(self, mel: Tensor, first_frame: int = 0) -> Tensor:
        """Log-mel (B, 2, n_mels, F) to log-magnitudes (B, 2, F, bins), from frame `first_frame` on."""
        return self._spectrum(mel, self.magnet.trunk(mel), first_frame)

    def _spectrum(self, mel: Tensor, h: Tensor, first_frame: int) -> Tensor:
        """`magnitudes_of` these frames, h being what the network's trunk makes of them."""
        config, net = self.config, self.magnet
        residual, spread = net.heads(h, mel.dtype)
        arguments: dict[str, Any] = {
            "bands": mel.transpose(2, 3),
            "residual": residual,
            "offset": self.gain - net.bin_log_area,
            "first": first_frame,
        }
        at = Interpolation(net.band_lower, net.band_share)
        spread_at = None
        if config.texture:
            arguments["spread"] = spread - math.log(_RAYLEIGH_SPREAD)
            arguments["noise"] = _texture_of(config, mel.dtype, mel.device)
            spread_at = Interpolation(net.spread_lower, net.spread_share)
        if not self.by_reference:
            return spectrum_from_bands(at=at, spread_at=spread_at, **arguments)
        if spread_at is not None:
            arguments |= {"spread_lower": spread_at.lower, "spread_share": spread_at.share}
        return spectrum_from_bands_reference(lower=at.lower, share=at.share, **arguments)

    def decode_magnitudes(self, latents: Tensor) -> Tensor:
        """Latents (B, channels, T) to mid/side log-magnitudes (B, 2, T * patch_frames, n_fft/2 + 1)."""
        return self.magnitudes_of(self.decode_log_mel(latents))

    def initial_state(self, items: int) -> Tensor:
        """Phases before the first frame, (items * 2, bins): equal for all items, not for mid and side."""
        return initial_state(2, self.config.mel.bins).repeat(items, 1).to(self.mean.device)

    @torch.no_grad()
    def phase_of(self, log_magnitude: Tensor) -> Tensor:
        """Phases (B, 2, F, bins) in radians for log-magnitudes of that shape: peaks, then the rounds."""
        rows = log_magnitude.flatten(0, 1)
        state = self.initial_state(log_magnitude.shape[0])
        phase, _ = peak_phase(rows, self.config.mel.hop, state, self.by_reference)
        return self._project(rows, phase).view_as(log_magnitude)

    def _project(self, rows: Tensor, phase: Tensor) -> Tensor:
        return project_phase(rows, phase, self.config.mel.hop, self.config.phase_rounds, self.by_reference)

    def decode_waveform(
        self, latents: Tensor, phase: Tensor | None = None, length: int | None = None
    ) -> Tensor:
        """Latents (B, channels, T) to left/right audio (B, 2, T * hop), cut to `length` samples.

        phase: radians (B, 2, T * patch_frames, bins), those of `phase_of` where None. The gradient with respect to
        the latents flows through the magnitudes; the phase is held constant.
        """
        full = latents.shape[-1] * self.config.hop
        if length is not None and not 0 < length <= full:
            raise ValueError(f"length must be in 1 ... {full}, got {length}")
        mel = self.decode_log_mel(latents)
        trained = mel.requires_grad or any(p.requires_grad for p in self.magnet.parameters())
        if phase is None and not (torch.is_grad_enabled() and trained):
            audio = self._decode_in_blocks(mel)
            return audio if length is None else audio[..., :length]
        log_magnitude = self.magnitudes_of(mel)
        if phase is None:
            phase = self.phase_of(log_magnitude.detach())
        if phase.shape != log_magnitude.shape or phase.dtype != log_magnitude.dtype:
            expected = f"{log_magnitude.dtype} {tuple(log_magnitude.shape)}"
            raise ValueError(f"phase must be {expected}, got {phase.dtype} {tuple(phase.shape)}")
        hop, rows = self.config.mel.hop, log_magnitude.flatten(0, 1)
        signal = inverse_stft(rows, phase.flatten(0, 1), hop, self.by_reference)
        audio = left_right(signal.view(latents.shape[0], 2, -1))
        return audio if length is None else audio[..., :length]

    @torch.no_grad()
    def _decode_in_blocks(self, mel: Tensor) -> Tensor:
        """Left/right audio of all of `mel`: the network's trunk at once, the rest in blocks that stay in the cache.

        32 s in blocks of 64 latent frames need 17 MB at a time instead of 90, whose page faults alone took 10 ms
        (AMD Zen 4, 2 threads).
        """
        h, patch, fold = self.magnet.trunk(mel), self.config.patch_frames, self.config.magnet.fold

        def magnitudes(first: int, end: int) -> Tensor:
            low, high = first * patch, end * patch
            return self._spectrum(mel[..., low:high], h[:, low // fold : high // fold], low)

        items, latents = mel.shape[0], mel.shape[3] // patch
        return torch.cat(list(self._sound(items, latents, 64, magnitudes)), -1)

    @torch.no_grad()
    def decode_tiles(self, latents: Tensor, tile: int) -> Iterator[Tensor]:
        """Left/right audio of successive tiles of `tile` latent frames: their concatenation is the whole.

        A tile waits for the few frames after it that its overlap-add and the phase rounds see; phases of the frames
        around its end are kept, and the last ones go on as state.
        """
        if tile < 1:
            raise ValueError(f"tile must be positive, got {tile}")
        patch, total = self.config.patch_frames, latents.shape[2]
        context = -(-self.magnet.context_frames // patch)

        def magnitudes(first: int, end: int) -> Tensor:
            low = max(first - context, 0)
            mel = self.decode_log_mel(latents[..., low : min(end + context, total)])
            return self.magnitudes_of(mel, low * patch)[:, :, (first - low) * patch : (end - low) * patch]

        yield from self._sound(latents.shape[0], total, tile, magnitudes)

    def _sound(
        self, items: int, total: int, tile: int, magnitudes: Callable[[int, int], Tensor]
    ) -> Iterator[Tensor]:
        """Left/right audio of tiles of `tile` of `total` latent frames; magnitudes(first, end) gives theirs."""
        config = self.config
        patch, hop, overlap = config.patch_frames, config.mel.hop, config.mel.n_fft // config.mel.hop
        halo = (
            config.phase_rounds * (overlap - 1) + overlap // 2
        )  # mel frames that a sample depends on, each side
        reach = -(-halo // patch)  # the same in latent frames
        state, phase = self.initial_state(items), None
        known = kept = 0  # latent frames up to which, and from which, phases are held
        for first in range(0, total, tile):
            end = min(first + tile, total)
            until = min(end + reach, total)
            rows = magnitudes(kept, until).flatten(0, 1)
            if until > known:
                new, state = peak_phase(rows[:, (known - kept) * patch :], hop, state, self.by_reference)
                phase, known = new if phase is None else torch.cat([phase, new], 1), until
            assert phase is not None
            signal = inverse_stft(rows, self._project(rows, phase), hop, self.by_reference)
            signal = signal[:, (first - kept) * patch * hop : (end - kept) * patch * hop]
            yield left_right(signal.view(items, 2, -1))
            drop = max(end - reach, 0) - kept
            phase, kept = phase[:, drop * patch :], kept + drop

    def decode_tiled(self, latents: Tensor, tile: int = 64, length: int | None = None) -> Tensor:
        """`decode_waveform` in tiles of `tile` latent frames: bounded memory, the same audio."""
        audio = torch.cat(list(self.decode_tiles(latents, tile)), -1)
        return audio if length is None else audio[..., :length]
