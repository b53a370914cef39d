# SPDX-License-Identifier: Apache-2.0
"""Trains the mel codec: principal components, once; latents of all tracks; MagNet; band gains."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prestissimo.data import FeatureStore, StoredTrack
from prestissimo.models.checkpoint import load_checkpoint, load_into, read_config, save_checkpoint
from prestissimo.models.schema import from_json
from prestissimo.nn.codec import MelCodec, MelCodecConfig
from prestissimo.nn.magnitudes import MagNet
from prestissimo.nn.stft import mel_centres, mel_of, mid_side, stft
from prestissimo.training.configuration import read_toml
from prestissimo.training.loop import LoopConfig, train
from prestissimo.training.pca import encode_store, fit_pca, patch_statistics

__all__ = ["CodecTrainingConfig", "MagNetBatches", "fit_codec", "magnet_loss", "train_codec"]

log = logging.getLogger("prestissimo")

_MARGIN_FRAMES = 4  # read on both sides of a window, so that its frames see the audio around them
_MAGNITUDE_FLOOR = 3e-3  # under the log-mel floor seen through one filter, so near silence is not chased


@dataclass(frozen=True)
class CodecTrainingConfig:
    """What `prestissimo train codec` reads.

    data: folder that `prestissimo data build` wrote; output: folder of components, checkpoints and logs.
    whitening: see `fit_pca`. batch windows of `frames` mel frames; gain_db: the range of loudness they get.
    latent_noise: largest standard deviation of noise on the latents, drawn uniformly for each window.
    mel_weight and spread_weight: of the log-mel and of the spread's likelihood beside the log-magnitudes.
    threads: None leaves torch's own number.
    """

    data: Path
    output: Path
    codec: MelCodecConfig = field(default_factory=MelCodecConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    whitening: float = 0.5
    batch: int = 16
    frames: int = 128
    gain_db: tuple[float, float] = (-6.0, 3.0)
    latent_noise: float = 0.08
    mel_weight: float = 0.5
    spread_weight: float = 0.1
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"batch and threads must be positive, got {self.batch} and {self.threads}")
        if self.frames < 1 or self.frames % self.codec.patch_frames:
            raise ValueError(f"frames must be a multiple of {self.codec.patch_frames}, got {self.frames}")
        if self.latent_noise < 0:
            raise ValueError(f"latent_noise must not be negative, got {self.latent_noise}")

    @classmethod
    def read(cls, path: Path | str, **given: Any) -> CodecTrainingConfig:
        """Read a TOML file: fields of this class, tables `codec` (with `mel`, `magnet`) and `loop`.

        `given`: see `read_toml`. Relative folders count from the working directory. Raises OSError, or ValueError
        naming the entry that is missing, unknown, of another type or wrong.
        """
        values = read_toml(path, **given)
        for name in ("data", "output"):
            if isinstance(values.get(name), str):
                values[name] = Path(values[name]).expanduser()
        return from_json(cls, values, str(path))


def fit_codec(config: CodecTrainingConfig, store: FeatureStore, init: Path | None = None) -> MelCodec:
    """A codec with the components of output/components.safetensors, fitted first where that is absent.

    Components are fitted on the training tracks only and never changed afterwards: latents stand on them.
    init: a codec.safetensors whose components and networks are taken where there are no components yet.
    """
    path = config.output / "components.safetensors"
    codec = MelCodec(config.codec)
    if not path.exists() and init is not None:
        load_into(codec, init)
        config.output.mkdir(parents=True, exist_ok=True)
        buffers = {name: getattr(codec, name) for name in ("mean", "components", "scale")}
        save_checkpoint(path, buffers, config.codec.to_dict() | {"init": init.name})
    elif not path.exists():
        statistics = patch_statistics((store.log_mel(t) for t in store.select("train")), config.codec)
        buffers = fit_pca(statistics, config.codec, config.whitening)
        config.output.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, buffers, config.codec.to_dict() | {"whitening": config.whitening})
        log.info("fitted %d components to %d patches", config.codec.channels, statistics.count)
    names = ("mean", "components", "scale")
    shapes = {name: tuple(getattr(codec, name).shape) for name in names}
    codec.load_state_dict(load_checkpoint(path, shapes).tensors, strict=False)
    return codec


class MagNetBatches:
    """Windows of training tracks: batch(step) depends on the seed and the step alone.

    A batch is (log-mel that went through the latents, magnitudes): (B, 2, n_mels, F) and (B, 2, F, bins).
    """

    def __init__(
        self, store: FeatureStore, tracks: list[StoredTrack], codec: MelCodec, config: CodecTrainingConfig
    ) -> None:
        self.store, self.codec, self.config = store, codec, config
        self.samples = (config.frames + 2 * _MARGIN_FRAMES) * config.codec.mel.hop
        self.tracks = [t for t in tracks if t.samples > self.samples]
        if not self.tracks:
            raise ValueError(f"tracks must hold one longer than {self.samples} samples")
        lengths = np.array([t.samples for t in self.tracks], np.float64)
        self.share = lengths / lengths.sum()

    @torch.no_grad()
    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        config, mel_config = self.config, self.config.codec.mel
        rng = np.random.default_rng([config.seed, step])
        windows = []
        for number in rng.choice(len(self.tracks), config.batch, p=self.share):
            track = self.tracks[number]
            start = int(rng.integers(0, track.samples - self.samples))
            windows.append(self.store.audio(track, start, self.samples))
        gain = 10 ** (rng.uniform(*config.gain_db, (config.batch, 1, 1)) / 20)
        audio = torch.stack(windows) * torch.from_numpy(gain.astype(np.float32))
        spectrum = stft(mid_side(audio), mel_config.n_fft, mel_config.hop)
        magnitude = spectrum[:, :, _MARGIN_FRAMES : _MARGIN_FRAMES + config.frames].abs()
        latents = self.codec.encode_log_mel(mel_of(magnitude, mel_config).transpose(2, 3))
        deviation = rng.uniform(0, config.latent_noise, (config.batch, 1, 1))
        noise = deviation * rng.standard_normal(latents.shape)
        return self.codec.decode_log_mel(latents + torch.from_numpy(noise.astype(np.float32))), magnitude


def magnet_loss(net: MagNet, mel: Tensor, magnitude: Tensor, config: CodecTrainingConfig) -> Tensor:
    """mean|log M - log X| + a mean|mel(M) - mel(X)| + b mean(log s + |log M - log X| / s), M, s = net(mel).

    Both logarithms of magnitudes are floored by an additive constant. The last term is the negative logarithm
    of a Laplace density: it fits the spread s alone, its deviation being held constant.
    mel (B, 2, n_mels, F), magnitude X (B, 2, F, bins).
    """
    with torch.autocast(mel.device.type, torch.bfloat16):
        log_magnitude, log_spread = net(mel)
    made = log_magnitude.clamp(-12.0, 9.0).exp()
    deviation = ((made + _MAGNITUDE_FLOOR) / (magnitude + _MAGNITUDE_FLOOR)).log().abs()
    mel_error = (mel_of(made, net.mel) - mel_of(magnitude, net.mel)).abs().mean()
    spread_loss = (log_spread + deviation.detach() * (-log_spread).exp()).mean()
    return deviation.mean() + config.mel_weight * mel_error + config.spread_weight * spread_loss


@torch.no_grad()
def fit_gain(codec: MelCodec, batches: MagNetBatches, count: int = 24, bands: int = 24) -> Tensor:
    """Gains (2, bins) in nats that give decoded magnitudes, texture included, the energy of the originals.

    One gain per channel and band (evenly spaced in mel), interpolated to bins: half the mean over windows of
    the logarithm of the ratio of energies. Ratios of sums over windows would follow the loudest few.
    """
    mel = codec.config.mel
    edges = mel_centres(mel.sample_rate, bands - 1) * mel.n_fft / mel.sample_rate
    band = torch.from_numpy(np.searchsorted(edges[1:-1], np.arange(mel.bins), side="right"))
    codec.gain.zero_()
    ratios = []
    for step in range(count):
        log_mel, magnitude = batches.batch(-1 - step & 0x7FFFFFFF)
        made, real = (
            x.new_zeros(*x.shape[:2], bands).index_add_(2, band, x.square().mean(2) + _MAGNITUDE_FLOOR**2)
            for x in (codec.magnitudes_of(log_mel).exp(), magnitude)
        )
        ratios.append((real / made).log())
    gain = 0.5 * torch.cat(ratios).mean(0).clamp(-1.4, 1.4).double()
    centres = torch.bincount(band, weights=torch.arange(mel.bins).double(), minlength=bands)
    centres = centres / torch.bincount(band, minlength=bands).clamp_min(1)
    rows = [np.interp(np.arange(mel.bins), centres.numpy(), row.numpy()) for row in gain]
    codec.gain.copy_(torch.from_numpy(np.stack(rows)))
    return codec.gain


def load_codec(path: Path) -> MelCodec:
    """The codec of a file that `save_codec` wrote. Raises FileNotFoundError, or ValueError naming the file."""
    codec = MelCodec(from_json(MelCodecConfig, read_config(path), f"{path}: the configuration"))
    load_into(codec, path)
    return codec.eval().requires_grad_(False)


def save_codec(codec: MelCodec, path: Path) -> str:
    """Write a codec as it ships, and return its SHA-256: MagNet's matrices int8, components float16."""
    state = codec.state_dict()
    state["components"] = state["components"].half()

    def axis(name: str, tensor: Tensor) -> int | None:
        return 0 if name.startswith("magnet.") and tensor.ndim >= 2 and tensor.numel() >= 4096 else None

    return save_checkpoint(path, state, codec.config.to_dict(), int8=axis)


def train_codec(
    config: CodecTrainingConfig, init: Path | None = None, show_progress: bool = True
) -> MelCodec:
    """Fit, encode, train, correct and write output/codec.safetensors; a killed run goes on where it was.

    Also leaves output/components.safetensors, and latents.f16 with latents_index.json in the data folder.
    init: a codec.safetensors to start from, which keeps its latents.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    store = FeatureStore(config.data)
    codec = fit_codec(config, store, init)
    encode_store(codec, store, config.data)
    batches = MagNetBatches(store, store.select("train"), codec, config)
    plain = replace(config, latent_noise=0.0, gain_db=(0.0, 0.0))
    held_out = MagNetBatches(store, store.select("heldout"), codec, plain)

    def loss_of(step: int) -> Tensor:
        return magnet_loss(codec.magnet, *batches.batch(step), config)

    @torch.no_grad()
    def validate(net: torch.nn.Module) -> dict[str, float]:
        assert isinstance(net, MagNet)
        losses = [float(magnet_loss(net, *held_out.batch(step), config)) for step in range(4)]
        return {"loss": sum(losses) / len(losses)}

    values = asdict(config)
    description = {name: v for name, v in values.items() if name not in ("data", "output", "threads")}
    for name in ("phase_rounds", "texture"):  # of decoding, not of training
        del description["codec"][name]
    description["data"] = {"tracks": len(batches.tracks), "samples": sum(t.samples for t in batches.tracks)}
    average = train(codec.magnet, loss_of, config.loop, config.output, validate, description, show_progress)
    codec.magnet.load_state_dict(average.model.state_dict())
    fit_gain(codec, MagNetBatches(store, store.select("train"), codec, plain))
    digest = save_codec(codec, config.output / "codec.safetensors")
    log.info("wrote %s (%s)", config.output / "codec.safetensors", digest[:12])
    return codec
