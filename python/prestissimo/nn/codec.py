# SPDX-License-Identifier: Apache-2.0
"""The mel codec: principal components of log-mel patches; back by a network for magnitudes, and a phase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prestissimo.nn.layers import Kernels
from prestissimo.nn.magnitudes import MagNet, MagNetConfig, noise_texture
from prestissimo.nn.phase import initial_state, inverse_stft, peak_phase, project_phase
from prestissimo.nn.stft import MelConfig, left_right, log_mel

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
        return self.encode_log_mel(log_mel(F.pad(audio, (0, missing)), self.config.mel))

    def encode_log_mel(self, mel: Tensor) -> Tensor:
        """Log-mel (B, 2, n_mels, T * patch_frames) to latents (B, channels, T)."""
        patches = patches_of(mel, self.config)
        return (((patches - self.mean) @ self.components.T) * self.scale).transpose(1, 2)

    def decode_log_mel(self, latents: Tensor) -> Tensor:
        """Latents (B, channels, T) to mid/side log-mel (B, 2, n_mels, T * patch_frames), linearly."""
        config = self.config
        if latents.ndim != 3 or latents.shape[1] != config.channels or latents.shape[2] < 1:
            raise ValueError(f"latents must be (B, {config.channels}, T), got {tuple(latents.shape)}")
        patches = (latents.transpose(1, 2) / self.scale) @ self.components + self.mean
        frames = latents.shape[2] * config.patch_frames
        return patches.view(latents.shape[0], frames, 2, config.mel.n_mels).permute(0, 2, 3, 1)

    def magnitudes_of(self, mel: Tensor, first_frame: int = 0) -> Tensor:
        """Log-mel (B, 2, n_mels, F) to log-magnitudes (B, 2, F, bins), from frame `first_frame` on."""
        config = self.config
        log_magnitude, log_spread = self.magnet(mel)
        log_magnitude = log_magnitude + self.gain[:, None]
        if config.texture == 0:
            return log_magnitude
        noise = noise_texture(config.magnet.texture_frames, config.mel.n_fft, config.mel.hop)
        place = torch.arange(first_frame, first_frame + mel.shape[3]) % noise.shape[1]
        noise = noise[:, place].to(mel.device, mel.dtype)
        share = (log_spread.exp() / _RAYLEIGH_SPREAD).clamp(max=1.0)
        return log_magnitude + config.texture * share * noise

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
        log_magnitude = self.decode_magnitudes(latents)
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
    def decode_tiles(self, latents: Tensor, tile: int) -> Iterator[Tensor]:
        """Left/right audio of successive tiles of `tile` latent frames: their concatenation is the whole.

        A tile waits for the few frames after it that its overlap-add and the phase rounds see; magnitudes and
        phases of the frames around its end are kept, and the last phases go on as state.
        """
        if tile < 1:
            raise ValueError(f"tile must be positive, got {tile}")
        config = self.config
        items, _, total = latents.shape
        patch, hop, overlap = config.patch_frames, config.mel.hop, config.mel.n_fft // config.mel.hop
        halo = (
            config.phase_rounds * (overlap - 1) + overlap // 2
        )  # frames that a sample depends on, each side
        ahead = -(-halo // patch)  # the same in latent frames
        context = -(-self.magnet.context_frames // patch)
        state = self.initial_state(items)
        log_magnitude = phase = latents.new_zeros(items * 2, 0, config.mel.bins)
        known = kept = 0  # latent frame up to which, and mel frame from which, magnitudes and phases are held
        for first in range(0, total, tile):
            end = min(first + tile, total)
            until = min(end + ahead, total)
            if until > known:
                low = max(known - context, 0)
                mel = self.decode_log_mel(latents[..., low : min(until + context, total)])
                inside = slice((known - low) * patch, (until - low) * patch)
                new = self.magnitudes_of(mel, low * patch)[:, :, inside].flatten(0, 1)
                new_phase, state = peak_phase(new, hop, state, self.by_reference)
                known = until
                log_magnitude = torch.cat([log_magnitude, new], 1)
                phase = torch.cat([phase, new_phase], 1)
            signal = inverse_stft(log_magnitude, self._project(log_magnitude, phase), hop, self.by_reference)
            start = first * patch - kept
            signal = signal[:, start * hop : (end * patch - kept) * hop]
            yield left_right(signal.view(items, 2, -1))
            drop = max(end * patch - halo, 0) - kept
            if drop > 0:
                log_magnitude, phase, kept = log_magnitude[:, drop:], phase[:, drop:], kept + drop

    def decode_tiled(self, latents: Tensor, tile: int = 64, length: int | None = None) -> Tensor:
        """`decode_waveform` in tiles of `tile` latent frames: bounded memory, the same audio."""
        audio = torch.cat(list(self.decode_tiles(latents, tile)), -1)
        return audio if length is None else audio[..., :length]
