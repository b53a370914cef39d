# SPDX-License-Identifier: Apache-2.0
"""Noise levels at which a sampler calls the denoiser."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["karras"]


def karras(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """σ_i = (σ_max^(1/ρ) + i/(N−1)·(σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ for i = 0..N−1, then 0.

    Karras et al. (arXiv 2206.00364), equation 5. (N+1,) float64 on the CPU; one step goes from σ_max to 0.

    >>> karras(3, sigma_min=0.1, sigma_max=10.0, rho=1.0).tolist()
    [10.0, 5.05, 0.1, 0.0]
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"sigma_min and sigma_max must be 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}"
        )
    if not 0 < rho < math.inf:
        raise ValueError(f"rho must be positive and finite, got {rho!r}")
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + u * (low - high)) ** rho
    # the root and the power do not quite cancel: the ends are meant to be exact
    ends = torch.tensor([sigma_max] + [sigma_min] * (steps > 1) + [0.0], dtype=torch.float64)
    return torch.cat([ends[:1], sigmas[1:-1], ends[1:]])
