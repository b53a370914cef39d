# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""

from __future__ import annotations

import torch
from torch import Tensor

from prestissimo import ops
from prestissimo.sampling.denoisers import Denoiser, Estimate, estimate

__all__ = ["by_level", "classifier_free"]


def classifier_free(
    conditional: Denoiser,
    both: Denoiser,
    scale: float,
    *,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """The guided denoiser D_∅ + w(D_c − D_∅), from one call of `both` per step.

    conditional: the denoiser of the prompts, batch B; both: the denoiser for batch 2B whose first B rows have
    the prompts and the others the null text or the negative prompts; rescale: φ of `ops.cfg_combine`; interval:
    (low, high), guidance where low < σ <= high and the plain conditional elsewhere (Kynkäänniemi et al., arXiv
    2404.07724), at half the cost there; scale 1 never calls `both`.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be in [0, 1], got {rescale!r}")
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ValueError(f"interval must be (low, high) with 0 <= low < high, got {interval!r}")
    return conditional if scale == 1 else _Guided(conditional, both, scale, rescale, interval)


def by_level(low: Denoiser, high: Denoiser, level: float) -> Denoiser:
    """`low` where σ <= level, `high` above it."""
    return _ByLevel(low, high, level)


class _ByLevel:
    def __init__(self, low: Denoiser, high: Denoiser, level: float) -> None:
        self.low, self.high, self.level = low, high, level

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return (self.low if float(sigma[0]) <= self.level else self.high)(x, sigma)

    def estimate(self, x: Tensor, level: float) -> Estimate:
        return estimate(self.low if level <= self.level else self.high, x, level)


class _Guided:
    def __init__(
        self,
        conditional: Denoiser,
        both: Denoiser,
        scale: float,
        rescale: float,
        interval: tuple[float, float] | None,
    ) -> None:
        self.conditional, self.both = conditional, both
        self.scale, self.rescale, self.interval = scale, rescale, interval

    def _outside(self, level: float) -> bool:
        return self.interval is not None and not self.interval[0] < level <= self.interval[1]

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        if self.interval is not None and self._outside(float(sigma[0])):
            return self.conditional(x, sigma)
        c, u = self.both(torch.cat([x, x]), torch.cat([sigma, sigma])).chunk(2)
        return ops.cfg_combine(c, u, self.scale, self.rescale)  # type: ignore[no-any-return]

    def estimate(self, x: Tensor, level: float) -> Estimate:
        if self._outside(level):
            return estimate(self.conditional, x, level)
        twice = estimate(self.both, torch.cat([x, x]), level)
        if twice.unconditional is not None:
            raise ValueError("both must be a denoiser without guidance of its own")
        c, u = twice.prediction.chunk(2)
        return Estimate(c, u, twice.skip, twice.out, self.scale, self.rescale)
