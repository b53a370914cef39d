# SPDX-License-Identifier: Apache-2.0
"""A small DiT learns two melodies by name and a sampler plays the one that was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prestissimo.nn import DiT, DiTConfig, TextContext
from prestissimo.sampling import (
    SAMPLERS,
    classifier_free,
    denoise,
    draw_sigma,
    edm_loss,
    karras,
    latent_noise,
)

SD = 0.5
CONFIG = DiTConfig(latent_channels=4, width=32, depth=2, heads=2, ff_inner=48, text_dim=8, features=32)


def melodies(B: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (B, 4, 6), their names' token states (B, 3, 8), and which of the two each is."""
    g = torch.Generator().manual_seed(5)
    shapes = torch.randn(2, 4, 6, generator=g)
    shapes = SD * shapes / shapes.std(dim=(1, 2), keepdim=True)
    names = torch.randn(2, 3, 8, generator=g)
    which = torch.randint(0, 2, (B,), generator=generator)
    return shapes[which], names[which], which


@pytest.fixture(scope="module")
def dit() -> DiT:
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    dit = DiT(CONFIG)
    optimiser = torch.optim.AdamW(dit.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, 400)
    for _ in range(400):
        x0, text, _ = melodies(24, g)
        sigma = draw_sigma(24, -0.4, 1.2, stratified=True, generator=g)
        mask = (torch.rand(24, 1, generator=g) > 0.15).expand(24, 3)
        context = dit.encode_text(text, mask)

        def network(x: Tensor, sigma: Tensor, context: TextContext = context) -> Tensor:
            return dit(x, {"sigma": sigma, "seconds": torch.ones(24)}, context)

        loss = edm_loss(network, x0, sigma, torch.randn(x0.shape, generator=g), SD).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    assert loss < 0.2
    return dit.eval()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_sampler_plays_what_the_text_names(dit: DiT, name: str, scale: float) -> None:
    x0, text, which = melodies(24, torch.Generator().manual_seed(2))
    assert set(which.tolist()) == {0, 1}
    context = dit.encode_text(text)
    guided = TextContext.cat([context, dit.null_context(24)])

    def denoiser(context: TextContext):
        def network(x: Tensor, sigma: Tensor) -> Tensor:
            return dit(x, {"sigma": sigma, "seconds": torch.tensor(1.0)}, context)

        return lambda x, sigma: denoise(network, x, sigma, SD)

    with torch.no_grad():
        x = SAMPLERS[name](
            classifier_free(denoiser(context), denoiser(guided), scale),
            latent_noise(range(24), 4, 6),
            karras(12, 0.01, 20.0),
        )
    melody = {int(i): x0[which == i][0] for i in which}
    other = torch.stack([melody[1 - int(i)] for i in which])
    near, far = ((x - y).square().mean(dim=(1, 2)).sqrt() for y in (x0, other))
    assert (near < far).all(), (near, far)
    assert (near < 0.5 * far).float().mean() > 0.8, (near, far)  # guidance overshoots for a few
    assert near.mean() < 0.4 * SD


def test_without_text_both_are_possible(dit: DiT) -> None:
    both = melodies(64, torch.Generator().manual_seed(2))
    shapes = torch.stack([both[0][both[2] == i][0] for i in (0, 1)])

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        return dit(x, {"sigma": sigma, "seconds": torch.tensor(1.0)})

    with torch.no_grad():
        x = SAMPLERS["heun"](
            lambda x, sigma: denoise(network, x, sigma, SD),
            latent_noise(range(40), 4, 6),
            karras(12, 0.01, 20.0),
        )
    nearest = (x[:, None] - shapes).square().mean(dim=(2, 3)).argmin(dim=1)
    assert 5 < nearest.sum() < 35
