# SPDX-License-Identifier: Apache-2.0
"""Training of the diffusion transformer: EDM loss (Karras et al. 2022) on latents, dropped captions, mixed lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prestissimo.models.schema import from_json
from prestissimo.nn import DiT, DiTConfig, TextEncoder
from prestissimo.sampling import draw_sigma, edm_loss

from .ema import Ema
from .latents import Batch, Captions, LatentWindows, Lengths
from .loop import LoopConfig, train

VALIDATION_SIGMAS = tuple(math.exp(-3.5 + 0.75 * i) for i in range(9))  # 0.03 ... 12


@dataclass(frozen=True)
class DiTTraining:
    """Everything that decides a run.

    leave_out: packages that it does not hear; drop_text: share of captions replaced by the null text (classifier-free
    guidance), and with them all else that is said of the music; drop_tempo: share of the others whose tempo is left
    open; p_mean, p_std: of ln sigma; sigma_data: standard deviation of the latents.
    """

    model: DiTConfig = field(default_factory=lambda: DiTConfig(latent_channels=128))
    loop: LoopConfig = field(default_factory=LoopConfig)
    lengths: Lengths = field(default_factory=Lengths)
    leave_out: tuple[str, ...] = ()
    drop_text: float = 0.12
    drop_tempo: float = 0.4
    p_mean: float = -0.4
    p_std: float = 1.2
    sigma_data: float = 0.5
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("drop_text", "drop_tempo"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not (self.p_std > 0 and self.sigma_data > 0):
            raise ValueError(f"p_std and sigma_data must be positive, got {self.p_std} and {self.sigma_data}")

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "training") -> DiTTraining:
        """Of what a TOML file holds. Raises ValueError naming the entry that is unknown, of another type or wrong."""
        return from_json(cls, values, where)


def _network(
    model: DiT, batch: Batch, text: Tensor, mask: Tensor, in_time: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """in_time: bool (B,), whether the model is told tempo and beats, where its configuration has them."""
    said = {
        "seconds": batch.seconds,
        "tempo": batch.tempo.where(in_time, 0),
        "beats": batch.beats.where(in_time[:, None], math.nan),
    }
    conditions = {name: said[name] for name in model.config.conditions if name in said}

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        out = model(x, {"sigma": sigma, **conditions}, text, mask)
        assert isinstance(out, Tensor)
        return out.float()

    return network


def train_dit(
    config: DiTTraining,
    latents: Path,
    captions: Captions,
    text_encoder: TextEncoder,
    folder: Path,
    scale: Tensor | None = None,
    init: dict[str, Tensor] | None = None,
    show_progress: bool = True,
) -> Ema:
    """Train, resuming from `folder`; returns the averaged model.

    latents: a folder that `training.pca.encode_store` wrote; scale: the codec's factor per channel where it differs
    from the one the latents were written with; init: weights to start from, whose optimizer is warmed up anew by the
    first steps of this run. Raises ValueError for sizes that do not fit each other, or what `train` raises.
    """
    torch.manual_seed(config.loop.seed)
    if text_encoder.config.width != config.model.text_dim:
        raise ValueError(
            f"model.text_dim must be {text_encoder.config.width}, the width of the text encoder, "
            f"got {config.model.text_dim}"
        )
    model = DiT(config.model)
    if init is not None:
        # Conditions that the weights do not know start at zero: the outputs are theirs until training changes them.
        fresh = {name: t for name, t in model.state_dict().items() if name.startswith("conditions.")}
        model.load_state_dict({**fresh, **init})
    data = LatentWindows(latents, captions, "train", scale, config.loop.seed, config.leave_out)
    held_out = LatentWindows(latents, captions, "heldout", scale, config.loop.seed, config.leave_out)
    channels = data.latents.shape[1]
    if channels != config.model.latent_channels:
        raise ValueError(f"model.latent_channels must be {channels}, got {config.model.latent_channels}")
    validation = held_out.fixed(48, 64)
    text_encoder.eval().requires_grad_(False)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16)

    def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), autocast():
            tokens = text_encoder.encode(texts)
        return tokens.states.float(), tokens.mask

    def loss_of(step: int) -> Tensor:
        batch = data.batch(step, config.lengths)
        rng = torch.Generator().manual_seed(config.loop.seed * 1_000_003 + step)
        sigma = draw_sigma(len(batch.captions), config.p_mean, config.p_std, stratified=True, generator=rng)
        noise = torch.randn(batch.latents.shape, generator=rng)
        text, mask = encode(batch.captions)
        keep = torch.rand(len(mask), 1, generator=rng) >= config.drop_text
        in_time = keep[:, 0] & (torch.rand(len(mask), generator=rng) >= config.drop_tempo)
        with autocast():
            return edm_loss(
                _network(model, batch, text, mask & keep, in_time),
                batch.latents,
                sigma,
                noise,
                config.sigma_data,
            ).mean()

    noise = torch.randn(validation.latents.shape, generator=torch.Generator().manual_seed(1))
    validation_text, validation_mask = encode(validation.captions)

    @torch.no_grad()
    def validate(averaged: nn.Module) -> dict[str, float]:
        """The loss at fixed noise levels, windows and noise; `mean` weighs them as training does."""
        assert isinstance(averaged, DiT)
        in_time = torch.ones(len(noise), dtype=torch.bool)
        network = _network(averaged, validation, validation_text, validation_mask, in_time)
        losses, total, weight = {}, 0.0, 0.0
        for s in VALIDATION_SIGMAS:
            sigma = torch.full((len(noise),), s)
            with autocast():
                loss = float(edm_loss(network, validation.latents, sigma, noise, config.sigma_data).mean())
            losses[f"sigma_{s:.3g}"] = loss
            w = math.exp(-0.5 * ((math.log(s) - config.p_mean) / config.p_std) ** 2)
            total, weight = total + w * loss, weight + w
        return {"mean": total / weight, **losses}

    facts = {"tracks": len(data.ids), "frames": int(data.frames.sum())}
    description = {"config": asdict(config), "data": facts}
    return train(model, loss_of, config.loop, folder, validate, description, show_progress)
