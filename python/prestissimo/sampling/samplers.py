# SPDX-License-Identifier: Apache-2.0
"""Samplers of dx/dσ = (x − D(x, σ))/σ: plain differentiable functions of (denoiser, noise, noise levels).

Nothing is written in place and no inference mode is entered: gradients reach the noise, and `no_grad` is
the caller's to choose. A step is one `ops.sampler_step`, one pass over the latent whatever the method, the guidance
and the preconditioning; its docstring has the formulas. Where a denoiser says its parts (see `Estimate`), as
`classifier_free` and every engine's do, they are combined in that pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from prestissimo import ops
from prestissimo.ops.philox_normal import words
from prestissimo.sampling.denoisers import Denoiser, estimate

__all__ = [
    "SAMPLERS",
    "STOCHASTIC",
    "Callback",
    "ctm",
    "ddim",
    "dpm2",
    "dpmpp_2m",
    "dpmpp_2s",
    "euler",
    "heun",
    "pingpong",
]

# (step, σ reached, x there, the step's denoised estimate); a tensor that it returns takes the place of x
Callback = Callable[[int, Tensor, Tensor, Tensor], "Tensor | None"]


class _Run:
    """The latent of one run and its noise levels, and what every sampler does with them."""

    def __init__(
        self, denoise: Denoiser, noise: Tensor, sigmas: Tensor, callback: Callback | None, init: Tensor | None
    ) -> None:
        levels = sigmas.tolist()
        falling = all(math.inf > a > b for a, b in itertools.pairwise(levels))
        if sigmas.ndim != 1 or len(levels) < 2 or not falling or levels[-1] < 0:
            raise ValueError(
                f"sigmas must be two or more falling numbers that end at 0 or above, got {levels}"
            )
        if init is not None and init.shape != noise.shape:
            raise ValueError(f"init must be {list(noise.shape)}, got {list(init.shape)}")
        self.denoise, self.callback = denoise, callback
        self.sigmas = sigmas.to(noise.device, noise.dtype)
        self.steps = list(enumerate(itertools.pairwise(levels)))
        self.x = levels[0] * noise
        if init is not None:
            self.x = init + self.x

    def step(
        self,
        method: str,
        x: Tensor,
        level: float,
        to: float,
        *more: Tensor,
        denoised: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """One call of the denoiser at (x, level) and one step from there; D too where asked for."""
        e = estimate(self.denoise, x, level, *more)
        result = ops.sampler_step(
            x, e.prediction.to(x.dtype), method, level, to, e.unconditional, skip=e.skip, out=e.out, scale=e.scale,
            rescale=e.rescale, denoised=denoised, **options,
        )  # fmt: skip
        return result if denoised else (result, None)

    def last(self, method: str, x: Tensor, level: float, to: float, *more: Tensor, **options: Any) -> Any:
        """The stage that ends a step: D too where the callback will see it."""
        options["denoised"] = options.get("denoised", False) or self.callback is not None
        return self.step(method, x, level, to, *more, **options)

    def reach(self, i: int, x: Tensor, denoised: Tensor | None) -> None:
        changed = None
        if self.callback is not None:
            assert denoised is not None
            changed = self.callback(i, self.sigmas[i + 1], x, denoised)
        self.x = x if changed is None else changed


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
    run = _Run(denoise, noise, sigmas, callback, init)
    for i, (level, to) in run.steps:
        run.reach(i, *run.last("euler", run.x, level, to))
    return run.x


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
    run = _Run(denoise, noise, sigmas, callback, init)
    for i, (level, to) in run.steps:
        if to == 0:
            run.reach(i, *run.last("euler", run.x, level, to))
        else:
            ahead, _ = run.step("euler", run.x, level, to)
            run.reach(i, *run.last("heun", ahead, to, to, previous=run.x, sigma_previous=level))
    return run.x


def _midpoint(method: str, run: _Run) -> Tensor:
    """Second-order methods whose second call lies at √(σ_i σ_{i+1}); a step to σ = 0 is Euler's."""
    for i, (level, to) in run.steps:
        if to == 0:
            run.reach(i, *run.last("euler", run.x, level, to))
        else:
            middle = math.sqrt(level * to)
            x, _ = run.step("euler", run.x, level, middle)
            run.reach(i, *run.last(method, x, middle, to, previous=run.x, sigma_previous=level))
    return run.x


def dpm2(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    init: Tensor | None = None,
) -> Tensor:
    """x ← x + (σ_{i+1} − σ_i)·d(x_m, σ_m), x_m Euler's point at σ_m = √(σ_i σ_{i+1}): order 2, two calls per step.

    DPM-Solver-2 (Lu et al., arXiv 2206.00927) in the form of Karras et al. (algorithm 2 without its noise), with
    the midpoint in ln σ. Arguments and result as for `euler`; a step to σ = 0 is Euler's.
    """
    return _midpoint("dpm2", _Run(denoise, noise, sigmas, callback, init))


def dpmpp_2s(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    init: Tensor | None = None,
) -> Tensor:
    """u = (σ_m/σ_i)·x − expm1(−h/2)·D(x, σ_i), x ← (σ_{i+1}/σ_i)·x − expm1(−h)·D(u, σ_m): order 2, two calls.

    DPM-Solver++(2S) (Lu et al., arXiv 2211.01095, algorithm 1 with r = 1/2), h = ln(σ_i/σ_{i+1}), σ_m =
    √(σ_i σ_{i+1}). Arguments and result as for `euler`; a step to σ = 0 gives D(x, σ_i).
    """
    return _midpoint("dpmpp_2s", _Run(denoise, noise, sigmas, callback, init))


def dpmpp_2m(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    init: Tensor | None = None,
) -> Tensor:
    """x ← (σ_{i+1}/σ_i)·x − expm1(−h_i)·((1 + 1/2r)·D_i − D_{i−1}/2r), r = h_{i−1}/h_i: order 2, one call per step.

    DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2), h_i = ln(σ_i/σ_{i+1}); the first step and one to
    σ = 0 take D_i alone. Arguments and result as for `euler`.
    """
    run = _Run(denoise, noise, sigmas, callback, init)
    options: dict[str, Any] = {}
    for i, (level, to) in run.steps:
        keep = i + 1 < len(run.steps) and run.steps[i + 1][1][1] > 0  # no later step looks back
        if to == 0:
            options = {}
        x, denoised = run.last("dpmpp_2m", run.x, level, to, denoised=keep, **options)
        options = {"previous": denoised, "sigma_previous": level}
        run.reach(i, x, denoised)
    return run.x


def _fresh(noise: Tensor, seeds: Sequence[int] | Tensor | None) -> Callable[[int], dict[str, Any]]:
    """The noise of step i, other than the noise that runs begin with: stream i + 1 of the seeds."""
    B = noise.shape[0]
    items = words("sampler", "items", range(B) if seeds is None else [0] * B, like=noise)
    own = words("sampler", "seeds", [0] * B if seeds is None else seeds, like=noise)
    if len(own) != B:
        raise ValueError(f"seeds must be {B}, one for each sample of noise, got {len(own)}")
    return lambda i: {"seeds": own, "items": items, "stream": i + 1}


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")


def ddim(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    init: Tensor | None = None,
    *,
    eta: float = 0.0,
    seeds: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """x ← D + √(σ_{i+1}² − s²)·(x − D)/σ_i + s·z, s = η·σ_{i+1}·√(1 − (σ_{i+1}/σ_i)²): order 1, one call per step.

    Song et al. (arXiv 2010.02502), equation 12 for x scaled by 1/√ᾱ, where σ = √((1 − ᾱ)/ᾱ). η = 0 is
    deterministic and the same as `euler`, η = 1 is the ancestral sampler of DDPM. seeds: B integers that the fresh
    noise z depends on, with the step; absent, the row in the batch takes their place. Else as for `euler`.
    """
    _share("eta", eta)
    run, fresh = _Run(denoise, noise, sigmas, callback, init), _fresh(noise, seeds)
    for i, (level, to) in run.steps:
        run.reach(i, *run.last("ddim", run.x, level, to, eta=eta, **(fresh(i) if eta and to else {})))
    return run.x


def pingpong(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    init: Tensor | None = None,
    *,
    seeds: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """x ← D(x, σ_i) + σ_{i+1}·z with fresh noise z: the few steps of a consistency model or a distilled generator.

    Song et al. (arXiv 2303.01469), algorithm 1; Presto (arXiv 2410.05167). seeds as for `ddim`, else as for
    `euler`.
    """
    run, fresh = _Run(denoise, noise, sigmas, callback, init), _fresh(noise, seeds)
    for i, (level, to) in run.steps:
        run.reach(i, *run.last("pingpong", run.x, level, to, **(fresh(i) if to else {})))
    return run.x


def ctm(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    init: Tensor | None = None,
    *,
    gamma: float = 0.0,
    second_level: bool = False,
    seeds: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """x ← G(x, σ_i, √(1 − γ²)·σ_{i+1}) + γσ_{i+1}·z, G(x, t, s) = (s/t)·x + (1 − s/t)·g(x, t, s): one call per step.

    γ-sampling of consistency trajectory models (Kim et al., arXiv 2310.02279, algorithm 3): γ = 0 is
    deterministic, γ = 1 is `pingpong`. second_level: `denoise` is g, a trajectory model, and is called with s too,
    denoise(x, t, s), each (B,); otherwise g is the denoiser D(x, t), and γ = 0 is `euler`. seeds as for `ddim`,
    else as for `euler`.
    """
    _share("gamma", gamma)
    run, fresh = _Run(denoise, noise, sigmas, callback, init), _fresh(noise, seeds)
    for i, (level, to) in run.steps:
        s = math.sqrt(1 - gamma**2) * to
        more = (noise.new_full((noise.shape[0],), s),) if second_level else ()
        options = fresh(i) if gamma and to else {}
        run.reach(i, *run.last("ctm", run.x, level, to, *more, eta=gamma, **options))
    return run.x


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "euler": euler,
    "heun": heun,
    "dpm2": dpm2,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_2m": dpmpp_2m,
    "ddim": ddim,
    "pingpong": pingpong,
    "ctm": ctm,
}
STOCHASTIC = frozenset({"ddim", "pingpong", "ctm"})  # those that take seeds
