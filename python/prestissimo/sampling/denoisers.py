# SPDX-License-Identifier: Apache-2.0
"""Denoisers, and what one call of them gives before it is combined: samplers fold the rest into their step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prestissimo import ops

__all__ = ["Denoiser", "Estimate", "Preconditioned", "estimate"]

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
        if sigma.ndim > 1 or (sigma.ndim == 1 and sigma.shape[0] not in (1, x.shape[0])):
            raise ValueError(f"sigma must be [{x.shape[0]}], got {list(sigma.shape)}")
        sigma = sigma.to(x.device).expand(x.shape[0])
        levels = sigma.to(torch.promote_types(torch.float32, x.dtype))
        return ops.edm_denoise(x, self._predict(x, sigma, levels), levels, self.sigma_data)

    def estimate(self, x: Tensor, level: float) -> Estimate:
        sigma = x.new_full((x.shape[0],), level)
        levels = sigma.to(torch.promote_types(torch.float32, x.dtype))
        variance = level**2 + self.sigma_data**2
        return Estimate(
            self._predict(x, sigma, levels),
            skip=self.sigma_data**2 / variance,
            out=level * self.sigma_data / variance**0.5,
        )

    def _predict(self, x: Tensor, sigma: Tensor, levels: Tensor) -> Tensor:
        return self.network(ops.edm_precondition(x, levels, self.sigma_data), sigma).to(x.dtype)
