# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""

from __future__ import annotations

import torch
from torch import Tensor

from prestissimo.sampling.samplers import Denoiser

__all__ = ["cfg_combine", "classifier_free"]


def cfg_combine(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """u + w(c − u); then out ← φ·out·std(c)/std(out) + (1 − φ)·out, the std over the channels (dim 1).

    scale: w, 1 gives c; rescale: φ in [0, 1] (Lin et al., arXiv 2305.08891, section 3.4), against the growth
    of contrast with w. Both inputs (B, C, T).
    """
    if conditional.shape != unconditional.shape:
        got = f"{list(conditional.shape)} and {list(unconditional.shape)}"
        raise ValueError(f"conditional and unconditional must have one shape, got {got}")
    out = torch.lerp(unconditional, conditional, scale)
    if rescale:
        ratio = conditional.std(dim=1, keepdim=True) / out.std(dim=1, keepdim=True).clamp_min(1e-12)
        out = out * (rescale * ratio + (1 - rescale))
    return out


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
    the prompts and the others the null text or the negative prompts; interval: (low, high), guidance where
    low < σ <= high and the plain conditional elsewhere (Kynkäänniemi et al., arXiv 2404.07724), at half the
    cost there; scale 1 never calls `both`.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be in [0, 1], got {rescale!r}")
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ValueError(f"interval must be (low, high) with 0 <= low < high, got {interval!r}")

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if interval is not None and not interval[0] < float(sigma[0]) <= interval[1]:
            return conditional(x, sigma)
        c, u = both(torch.cat([x, x]), torch.cat([sigma, sigma])).chunk(2)
        return cfg_combine(c, u, scale, rescale)

    return conditional if scale == 1 else denoise
