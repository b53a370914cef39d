# SPDX-License-Identifier: Apache-2.0
"""Denoisers, and what one call of them gives before it is combined: samplers fold the rest into their step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prestissimo import ops

__all__ = [
    "PARAMETERISATIONS",
    "Denoiser",
    "Estimate",
    "Preconditioned",
    "RectifiedFlow",
    "VelocityPredicted",
    "estimate",
]

# D(x, σ): the noisy latent (B, ...) and σ (B,) to the estimate of the clean one
Denoiser = Callable[[Tensor, Tensor], Tensor]
Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Estimate:
    """D at (x, σ) in parts: D = out·(F_u + scale·(F − F_u)) + skip·x, then `ops.cfg_combine`'s rescale.

    prediction: F; unconditional: F_u, None where there is no guidance; both like x.
    """

    prediction: Tensor
    unconditional: Tensor | None = None
    skip: float = 0.0
    out: float = 1.0
    scale: float = 1.0
    rescale: float = 0.0


def estimate(denoise: Denoiser, x: Tensor, level: float, *more: Tensor) -> Estimate:
    """What `denoise` gives at (x, level): its own `estimate(x, level)` where it has one, else D itself.

    more: what a denoiser of another form takes behind σ. Nothing is read back from a device.
    """
    own: Any = getattr(denoise, "estimate", None)
    if own is not None and not more:
        parts: Estimate = own(x, level)
        return parts
    return Estimate(denoise(x, x.new_full((x.shape[0],), level), *more))


class Preconditioned:
    """D(x, σ) = c_skip·x + c_out·F(c_in·x, σ) of a network F (Karras et al., arXiv 2206.00364, equation 7).

    network: F of the scaled latent and of σ (B,) itself (`DiT` takes ln(σ)/4 of it); sigma_data: σ_d. Called with
    a noisy latent x (B, ...) and σ, (B,) or scalar; raises ValueError where σ has another shape.
    """

    def __init__(self, network: Network, sigma_data: float) -> None:
        self.network = network
        self.sigma_data = sigma_data

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        _expect_levels(sigma, x)
        sigma = sigma.to(x.device).expand(x.shape[0])
        return self._combine(x, self._predict(x, sigma), _wide(sigma, x))

    def estimate(self, x: Tensor, level: float) -> Estimate:
        skip, out = self._factors(level)
        return Estimate(self._predict(x, x.new_full((x.shape[0],), level)), skip=skip, out=out)

    def _combine(self, x: Tensor, prediction: Tensor, sigma: Tensor) -> Tensor:
        return ops.edm_denoise(x, prediction, sigma, self.sigma_data)

    def _factors(self, level: float) -> tuple[float, float]:
        """c_skip and c_out."""
        variance = level**2 + self.sigma_data**2
        return self.sigma_data**2 / variance, level * self.sigma_data / variance**0.5

    def _predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        scaled = ops.edm_precondition(x, _wide(sigma, x), self.sigma_data)
        return self.network(scaled, sigma).to(x.dtype)


class VelocityPredicted(Preconditioned):
    """D of a network that predicts v = (σ_d² n − σ x₀) / (σ_d √(σ² + σ_d²)), n of deviation 1, of c_in·x.

    c_out has the other sign than in EDM (Salimans and Ho, arXiv 2202.00512, appendix D, in units of σ_d).
    """

    def _combine(self, x: Tensor, prediction: Tensor, sigma: Tensor) -> Tensor:
        return super()._combine(x, -prediction, sigma)

    def _factors(self, level: float) -> tuple[float, float]:
        skip, out = super()._factors(level)
        return skip, -out


class RectifiedFlow(Preconditioned):
    """D of a network that predicts v = n − x₀ of x_t = (1 − t)·x₀ + t·n: with σ = t / (1 − t), x_t = x / (1 + σ) and
    D = x_t − t·v (Liu et al., arXiv 2209.03003). sigma_data has no part in it."""

    def _combine(self, x: Tensor, prediction: Tensor, sigma: Tensor) -> Tensor:
        s = per_sample(sigma, x)
        return ((x - s * prediction) / (1 + s)).to(x.dtype)

    def _factors(self, level: float) -> tuple[float, float]:
        return 1 / (1 + level), -level / (1 + level)

    def _predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        scaled = x / (1 + per_sample(sigma, x))
        return self.network(scaled.to(x.dtype), sigma).to(x.dtype)


# What a network was trained to predict, by the name that a model's configuration gives it.
PARAMETERISATIONS: dict[str, type[Preconditioned]] = {
    "edm": Preconditioned,
    "v": VelocityPredicted,
    "flow": RectifiedFlow,
}


def _expect_levels(sigma: Tensor, x: Tensor) -> None:
    if sigma.ndim > 1 or (sigma.ndim == 1 and sigma.shape[0] not in (1, x.shape[0])):
        raise ValueError(f"sigma must be [{x.shape[0]}], got {list(sigma.shape)}")


def _wide(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.to(torch.promote_types(torch.float32, x.dtype))


def per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """σ, scalar or (B,), as (B or 1, 1, ...) in at least the precision of float32."""
    _expect_levels(sigma, x)
    return _wide(sigma, x).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
