# SPDX-License-Identifier: Apache-2.0
"""A model folder: config.json, text.safetensors with tokenizer.json, codec.safetensors, dit.safetensors.

tempo.json may lie beside them: see `models.tempo`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prestissimo.atomic import write_bytes
from prestissimo.models.checkpoint import load_into, read_config, read_sha256
from prestissimo.models.schema import from_json
from prestissimo.models.text import load_text_encoder
from prestissimo.nn.codec import MelCodec, MelCodecConfig
from prestissimo.nn.dit import DiT, DiTConfig
from prestissimo.nn.text_encoder import TextEncoder, TextEncoderConfig
from prestissimo.sampling import PARAMETERISATIONS, SAMPLERS

__all__ = [
    "ModelConfig",
    "SamplingConfig",
    "assemble_model",
    "bundled_models",
    "load_model",
    "read_model_config",
]

CONFIG = "config.json"
FORMAT = 1
MAX_CONFIG_BYTES = 1 << 20
PARTS = ("text", "codec", "dit")

# What a module of the codec computes as it is made, from the configuration alone, must stay small.
CODEC_LIMITS = {
    "mel.n_fft": 1 << 16,
    "mel.n_mels": 1 << 10,
    "magnet.spread_bands": 1 << 10,
    "magnet.texture_frames": 1 << 13,
    "magnet.blocks": 1 << 10,
}


@dataclass(frozen=True)
class SamplingConfig:
    """How the diffusion was trained, and what a request that says nothing gets.

    parameterisation: what the network predicts, "edm", "v" or "flow" (see sampling.PARAMETERISATIONS);
    sigma_data: standard deviation of the latents; sigma_min, sigma_max, rho: of the Karras schedule;
    guidance: w of D = D_∅ + w(D_c − D_∅); rescale: its φ; interval: noise levels (low, high] that are guided,
    None for all; tempo_below: highest noise level at which guidance is away from no tempo too, None for all;
    max_seconds: longest clip that may be asked for.
    """

    parameterisation: str = "edm"
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sampler: str = "heun"
    steps: int = 16
    guidance: float = 3.0
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    tempo_below: float | None = None
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("sigma_data", "rho", "max_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            got = f"{self.sigma_min} and {self.sigma_max}"
            raise ValueError(f"sigma_min and sigma_max must be 0 < sigma_min < sigma_max, got {got}")
        if self.parameterisation not in PARAMETERISATIONS:
            names = ", ".join(PARAMETERISATIONS)
            raise ValueError(f"parameterisation must be one of {names}, got {self.parameterisation!r}")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be a positive integer, got {self.steps!r}")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be finite and not negative, got {self.guidance!r}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must be in [0, 1], got {self.rescale!r}")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1] < math.inf:
            raise ValueError(f"interval must be 0 <= low < high, got {self.interval!r}")
        if self.tempo_below is not None and not 0 <= self.tempo_below < math.inf:
            raise ValueError(f"tempo_below must be finite and not negative, got {self.tempo_below!r}")


@dataclass(frozen=True)
class ModelConfig:
    """config.json: the sizes of the three networks, how to sample, and the SHA-256 of each part's tensors."""

    name: str
    text: TextEncoderConfig
    codec: MelCodecConfig
    dit: DiTConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sha256: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {self.format}: another version of prestissimo")
        if self.dit.latent_channels != self.codec.channels:
            got = f"{self.dit.latent_channels} and {self.codec.channels}"
            raise ValueError(f"dit.latent_channels and codec.channels must be equal, got {got}")
        if self.dit.text_dim != self.text.width:
            raise ValueError(
                f"dit.text_dim and text.width must be equal, got {self.dit.text_dim} and {self.text.width}"
            )
        for name in ("sigma", "seconds"):
            if name not in self.dit.conditions:
                raise ValueError(f"dit.conditions must have {name!r}, got {list(self.dit.conditions)}")
        for place, limit in CODEC_LIMITS.items():
            value = attrgetter(place)(self.codec)
            if value > limit:
                raise ValueError(f"codec.{place} must be at most {limit}, got {value}")
        unknown = sorted(set(self.sha256) - set(PARTS))
        if unknown:
            raise ValueError(f"sha256 must have no part but {', '.join(PARTS)}, got {unknown[0]!r}")


def bundled_models() -> dict[str, Path]:
    """The folders of the models that ship with the package, by name."""
    weights = Path(__file__).parent / "weights"
    return {path.parent.name: path.parent for path in sorted(weights.glob(f"*/{CONFIG}"))}


def read_model_config(folder: str | Path) -> ModelConfig:
    """config.json of a model folder. Raises FileNotFoundError, or ValueError that names file and entry."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such configuration: not a model folder")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path}: a configuration has at most {MAX_CONFIG_BYTES} bytes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return from_json(ModelConfig, values, str(path))


def load_model(folder: str | Path, kernels: str = "auto") -> tuple[ModelConfig, TextEncoder, DiT, MelCodec]:
    """The networks of a model folder in float32, frozen and in eval mode.

    Raises FileNotFoundError for a missing file, ValueError for one that is damaged or of another model.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    text = load_text_encoder(folder, kernels)
    if text.config != config.text:
        raise ValueError(f"{folder / 'text.safetensors'}: not of the sizes that {CONFIG} gives")
    with torch.device("meta"):
        dit, codec = DiT(config.dit, kernels), MelCodec(config.codec, kernels)
    _load(folder, "dit", dit, config)
    _load(folder, "codec", codec, config)
    _check_sha256(folder, "text", config)
    return config, text, dit, codec


def _load(folder: Path, part: str, module: nn.Module, config: ModelConfig) -> None:
    _check_sha256(folder, part, config)
    load_into(module, folder / f"{part}.safetensors")
    module.eval().requires_grad_(False)


def _check_sha256(folder: Path, part: str, config: ModelConfig) -> None:
    """The digest that the weights carry (and are held to on loading) against the one config.json names."""
    path, wanted = folder / f"{part}.safetensors", config.sha256.get(part)
    if wanted is not None and read_sha256(path) != wanted:
        raise ValueError(f"{path}: these are not the weights that {CONFIG} names (SHA-256 {wanted[:12]}...)")


def assemble_model(folder: str | Path, name: str, sampling: SamplingConfig | None = None) -> ModelConfig:
    """Write config.json of a folder from the configurations that its three weights files carry.

    Raises as `load_model`; the folder is loaded once to be sure.
    """
    folder = Path(folder)
    parts: dict[str, Any] = {part: read_config(folder / f"{part}.safetensors") for part in PARTS}
    sha256 = {part: read_sha256(folder / f"{part}.safetensors") for part in PARTS}
    values = {"name": name, **parts, "sampling": asdict(sampling or SamplingConfig()), "sha256": sha256}
    config = from_json(ModelConfig, values, str(folder))
    write_bytes(folder / CONFIG, (json.dumps(asdict(config), indent=2) + "\n").encode(), overwrite=True)
    load_model(folder)
    return config
