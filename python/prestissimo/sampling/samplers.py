# SPDX-License-Identifier: Apache-2.0
"""Samplers of dx/dσ = (x − D(x, σ))/σ: plain differentiable functions of (denoiser, noise, noise levels).

Nothing is written in place and no inference mode is entered: gradients reach the noise, and `no_grad` is
the caller's to choose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import Tensor

__all__ = ["SAMPLERS", "Callback", "Denoiser", "euler", "heun"]

# D(x, σ): the noisy latent (B, ...) and σ (B,) to the estimate of the clean one
Denoiser = Callable[[Tensor, Tensor], Tensor]

# (step, σ reached, x there, the step's denoised estimate); a tensor that it returns takes the place of x
Callback = Callable[[int, Tensor, Tensor, Tensor], "Tensor | None"]


def _start(noise: Tensor, sigmas: Tensor, init: Tensor | None) -> Tensor:
    levels = sigmas.tolist()
    falling = all(math.inf > a > b for a, b in itertools.pairwise(levels))
    if sigmas.ndim != 1 or len(levels) < 2 or not falling or levels[-1] < 0:
        raise ValueError(f"sigmas must be two or more falling numbers that end at 0 or above, got {levels}")
    if init is not None and init.shape != noise.shape:
        raise ValueError(f"init must be {list(noise.shape)}, got {list(init.shape)}")
    x = sigmas[0].to(noise.dtype) * noise
    return x if init is None else init + x


def _slope(denoise: Denoiser, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """d = (x − D(x, σ))/σ, and D."""
    denoised = denoise(x, sigma.expand(x.shape[0]))
    return (x - denoised) / sigma, denoised


def _after(callback: Callback | None, step: int, sigma: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    changed = None if callback is None else callback(step, sigma, x, denoised)
    return x if changed is None else changed


def euler(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    init: Tensor | None = None,
) -> Tensor:
    """x ← x + (σ_{i+1} − σ_i)·d_i with d = (x − D(x, σ))/σ: order 1, one call of the denoiser per step.

    Karras et al. (arXiv 2206.00364), equation 4 and algorithm 1 without its lines 6 to 8. The first x is
    init + σ_0·noise. noise: (B, ...), of unit variance; sigmas: (N+1,), falling, from `schedules`;
    callback: see `Callback`. Returns x at the last σ. Raises ValueError for other sigmas or shapes.
    """
    x = _start(noise, sigmas, init)
    levels = sigmas.to(noise.device, noise.dtype)
    for i in range(len(levels) - 1):
        d, denoised = _slope(denoise, x, levels[i])
        x = x + (levels[i + 1] - levels[i]) * d
        x = _after(callback, i, levels[i + 1], x, denoised)
    return x


def heun(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    init: Tensor | None = None,
) -> Tensor:
    """An Euler step to x', then x ← x + (σ_{i+1} − σ_i)·(d_i + d')/2: order 2, two calls per step.

    Karras et al. (arXiv 2206.00364), algorithm 1; a step to σ = 0 is Euler's, for d' has no value there.
    Arguments and result as for `euler`.
    """
    x = _start(noise, sigmas, init)
    levels = sigmas.to(noise.device, noise.dtype)
    to_zero = float(sigmas[-1]) == 0
    for i in range(len(levels) - 1):
        h = levels[i + 1] - levels[i]
        d, denoised = _slope(denoise, x, levels[i])
        if i == len(levels) - 2 and to_zero:
            x = x + h * d
        else:
            d_next, denoised = _slope(denoise, x + h * d, levels[i + 1])
            x = x + h * (d + d_next) / 2
        x = _after(callback, i, levels[i + 1], x, denoised)
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"euler": euler, "heun": heun}
