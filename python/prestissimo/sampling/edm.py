# SPDX-License-Identifier: Apache-2.0
"""EDM's preconditioning and training loss (Karras et al., arXiv 2206.00364, section 5 and table 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from prestissimo.ops.edm_denoise import scalings as output_scalings
from prestissimo.sampling.denoisers import Network, Preconditioned, per_sample

__all__ = ["denoise", "draw_sigma", "edm_loss", "scalings"]


def scalings(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip = σ_d²/(σ²+σ_d²), c_out = σσ_d/√(σ²+σ_d²), c_in = 1/√(σ²+σ_d²), of the shape of sigma.

    With them the input and the training target of the network have variance 1 at every σ, and at σ = 0 the
    denoiser is the identity.

    >>> scalings(torch.tensor(0.0), sigma_data=0.5)
    (tensor(1.), tensor(0.), tensor(2.))
    """
    return *output_scalings(sigma, sigma_data), (sigma**2 + sigma_data**2).rsqrt()


def denoise(network: Network, x: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """D(x, σ) = c_skip·x + c_out·F(c_in·x, σ): the estimate of the clean latent, as `Preconditioned` gives it."""
    return Preconditioned(network, sigma_data)(x, sigma)


def edm_loss(network: Network, x0: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float) -> Tensor:
    """λ(σ)·mean((D(x0 + σ·noise, σ) − x0)²) of each sample, (B,), with λ = (σ²+σ_d²)/(σσ_d)².

    Since λ = 1/c_out², this is mean((F − (x0 − c_skip·x)/c_out)²): computed so, because D − x0 loses all
    digits of F at small σ. About 1 for a network that predicts zero, at every σ.

    x0 and noise: (B, C, T); sigma: (B,), positive; network as in `denoise`.
    """
    if noise.shape != x0.shape:
        raise ValueError(f"noise must be {list(x0.shape)}, got {list(noise.shape)}")
    s = per_sample(sigma, x0)
    c_in = scalings(s, sigma_data)[2]
    x = x0 + s * noise
    # (x0 − c_skip·(x0 + σ·noise))/c_out without the cancellation between x0 and c_skip·x0 at small σ
    target = c_in * (s / sigma_data * x0 - sigma_data * noise)
    error = network(c_in * x, sigma.expand(x0.shape[0])) - target
    return error.square().flatten(1).mean(dim=1)


def draw_sigma(
    batch: int,
    p_mean: float = -0.4,
    p_std: float = 1.0,
    *,
    stratified: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """σ with ln σ ~ N(p_mean, p_std²), (batch,) float32; the defaults are EDM2's (arXiv 2312.02696, table 6).

    stratified: one draw from each of `batch` equally probable slices, in random order: each σ has the same
    distribution, and the average loss of a small batch varies less.
    """
    if stratified:
        slices = torch.randperm(batch, generator=generator, device=device)
        u = (slices + torch.rand(batch, generator=generator, device=device, dtype=torch.float64)) / batch
        normal = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).float()
    else:
        normal = torch.randn(batch, generator=generator, device=device)
    return (p_mean + p_std * normal).exp()
