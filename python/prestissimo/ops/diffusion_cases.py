# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops between a diffusion network and its sampler; part of the table in cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .cfg_combine import cfg_combine
from .cfg_combine import reference as cfg_combine_reference
from .ctm_map import ctm_map
from .ctm_map import reference as ctm_map_reference
from .edm_denoise import edm_denoise
from .edm_denoise import reference as edm_denoise_reference
from .edm_precondition import edm_precondition
from .edm_precondition import reference as edm_precondition_reference
from .op_case import Arguments, OpCase, Shape, cut, noise, other_dtype
from .renoise import reference as renoise_reference
from .renoise import renoise
from .sampler_step import reference as sampler_step_reference
from .sampler_step import sampler_step, step_weights

# (batch, channels, frames); lanes and chunks of the kernels, one less and one more
_SMALL: tuple[Shape, ...] = (
    (2, 3, 24), (1, 1, 1), (1, 3, 5), (2, 2, 4), (1, 1, 7), (3, 1, 8), (1, 3, 3), (2, 5, 3), (1, 4, 4), (2, 1, 17),
    (1, 1, 31), (3, 4, 8), (1, 3, 11), (2, 7, 13), (0, 4, 16), (2, 0, 16), (1, 8, 513), (2, 64, 129), (1, 1, 4097),
    (1, 33, 600),
)  # fmt: skip
# with a standard deviation over channels: one has none, and few that are nearly equal leave it no digits
_DEVIATING = (*(s for s in _SMALL if s[1] > 4 and s[0] > 0), (3, 6, 8), (2, 16, 17), (1, 256, 70))
# models.md: latents of 6.2; the last is large enough that a copy leaves the caches
LATENTS: dict[str, Shape] = {
    "mini-12s": (1, 128, 129),
    "mini-32s": (1, 128, 345),
    "open-small": (1, 64, 256),
    "open-1.0": (1, 64, 1024),
    "open-1.0-batch-8": (8, 64, 1024),
    "sa3-medium-380s": (1, 256, 4096),
    "sa3-medium-380s-batch-8": (8, 256, 4096),
}


def _sigma(B: int, rng: torch.Generator, low: float = 0.002, high: float = 80.0) -> Tensor:
    u = torch.rand(B, generator=rng, dtype=torch.float64)
    return (math.log(low) + u * math.log(high / low)).exp().float()


def _latent(shape: Shape, dtype: torch.dtype, rng: torch.Generator, mean: float, std: float = 1.0) -> Tensor:
    """With a few values far out."""
    x = noise(shape, torch.float64, rng, mean, std)
    return (x * (1 + 29 * (torch.rand(shape, generator=rng) < 0.001))).to(dtype)


def _elements(passes: int) -> Callable[[Shape, int], int]:
    return lambda shape, item: passes * math.prod(shape) * item


def _set(name: str, value: object) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, name: value}


def _edm_precondition_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    sigma = _sigma(shape[0], rng)
    x = _latent(shape, torch.float64, rng, 0.1) * sigma.double().reshape(-1, 1, 1)
    return {"x": x.to(dtype), "sigma": sigma, "sigma_data": 0.5}


def _edm_denoise_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    a = _edm_precondition_make(shape, dtype, rng)
    return {
        "x": a["x"],
        "prediction": _latent(shape, dtype, rng, -0.2),
        "sigma": a["sigma"],
        "sigma_data": 0.5,
    }


def _ctm_map_make(sigma_data: float) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        t = _sigma(shape[0], rng)
        # s = t and s = 0, the ends of the trajectory, among the samples
        s = t * torch.rand(shape[0], generator=rng) * (torch.arange(shape[0]) != 1)
        s[2:3] = t[2:3]
        return {
            "x": _latent(shape, dtype, rng, 0.1),
            "prediction": _latent(shape, dtype, rng, -0.2),
            "t": t,
            "s": s,
            "sigma_data": sigma_data,
        }

    return make


def _ctm_map_case(variant: str, sigma_data: float, real: dict[str, Shape]) -> OpCase:
    return OpCase(
        name="ctm_map",
        op=ctm_map,
        reference=ctm_map_reference,
        make=_ctm_map_make(sigma_data),
        small=_SMALL,
        variant=variant,
        gradients=("x", "prediction"),
        gradient_small=_SMALL,
        bad=(
            (cut("prediction"), ValueError, "prediction"),
            (other_dtype("prediction"), TypeError, "prediction"),
            (cut("t"), ValueError, "t"),
            (cut("s"), ValueError, "s"),
            (other_dtype("s"), TypeError, "s"),
            (_set("sigma_data", -1.0), ValueError, "sigma_data"),
        ),
        real=real,
        bytes_moved=_elements(3),
        eager_bytes=_elements(7),
        flops=lambda s: 3 * math.prod(s),
    )


def _noise_words(B: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Seeds and items."""
    seeds = torch.randint(-(2**63), 2**63 - 1, (B,), generator=rng)
    return seeds, torch.randint(0, 2**32, (B,), generator=rng)


def _renoise_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    seeds, items = _noise_words(shape[0], rng)
    x = _latent(shape, dtype, rng, 0.1)
    return {"x": x, "sigma": _sigma(shape[0], rng), "seeds": seeds, "items": items, "stream": 5}


# ---- sampler_step: every method, guidance and parameterisation, and each with another

_PLAIN: dict[str, float] = {}
_EDM = {"skip": 0.2, "out": 0.42}  # about sigma = sigma_data
_FLOW = {"skip": 1.0, "out": -0.8}


def _step_case(
    variant: str,
    method: str,
    sigma: float,
    sigma_next: float,
    arrays: str = "",  # u: unconditional, p: previous, n: noise, d: denoised wanted
    *,
    options: Mapping[str, float] = _PLAIN,
    real: tuple[str, ...] = (),
    bad: tuple[tuple[Callable[[Arguments], Arguments], type[Exception], str], ...] = (),
) -> OpCase:
    defaults = {"sigma_previous": 0.0, "skip": 0.0, "out": 1.0, "scale": 1.0, "rescale": 0.0, "eta": 0.0}
    settings = defaults | {"alpha": 1.0, "alpha_next": 1.0} | dict(options)
    weights = step_weights(
        method, sigma, sigma_next, *(settings[k] for k in ("sigma_previous", "eta", "alpha", "alpha_next"))
    )
    small = _DEVIATING if settings["rescale"] else _SMALL

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        F = _latent(shape, dtype, rng, -0.2)
        seeds, items = _noise_words(shape[0], rng) if "n" in arrays else (None, None)
        return {
            "x": _latent(shape, dtype, rng, 0.1, 1.5),
            "prediction": F,
            "method": method,
            "sigma": sigma,
            "sigma_next": sigma_next,
            "unconditional": (F + 0.3 * _latent(shape, dtype, rng, 0.1)).to(dtype) if "u" in arrays else None,
            "previous": _latent(shape, dtype, rng, 0.3) if "p" in arrays else None,
            **settings,
            "seeds": seeds,
            "items": items,
            "stream": 3,
            "denoised": "d" in arrays,
        }

    reads_x = bool(weights.x or settings["skip"])
    gradients = ("x",) * reads_x + ("prediction",) + ("unconditional",) * ("u" in arrays)
    gradients += ("previous",) * ("p" in arrays)
    moved = reads_x + 2 + ("u" in arrays) + ("p" in arrays) + ("d" in arrays)
    # eager: a product reads and writes, a sum or a difference reads twice; std reads, the noise is written and scaled
    eager = 8 * ("u" in arrays) + 2 * (settings["out"] != 1) + 5 * (settings["skip"] != 0) + 2
    eager += 5 * bool(weights.x) + 5 * ("p" in arrays) + 6 * ("n" in arrays) + 4 * (settings["rescale"] != 0)
    return OpCase(
        name="sampler_step",
        op=sampler_step,
        reference=_step_reference,
        make=make,
        small=small,
        variant=variant,
        gradients=gradients,
        gradient_small=small,
        bad=bad,
        real={k: LATENTS[k] for k in real},
        bytes_moved=_elements(moved),
        eager_bytes=_elements(eager),
        flops=lambda s: (3 + 3 * len(arrays)) * math.prod(s),
    )


def _step_reference(denoised: bool, **arguments: object) -> Tensor | tuple[Tensor, Tensor]:
    y, d = sampler_step_reference(**arguments, denoised=denoised)  # type: ignore[arg-type]
    return (y, d) if denoised else y


_STEP_BAD = (
    (cut("prediction"), ValueError, "prediction"),
    (other_dtype("unconditional"), TypeError, "unconditional"),
    (cut("unconditional"), ValueError, "unconditional"),
    (_set("method", "rk4"), ValueError, "method"),
    (_set("sigma", 0.0), ValueError, "sigma"),
    (_set("sigma_next", -1.0), ValueError, "sigma_next"),
    (_set("eta", 1.5), ValueError, "eta"),
    (_set("rescale", -0.5), ValueError, "rescale"),
    (_set("scale", math.inf), ValueError, "scale"),
    (_set("alpha", 0.9), ValueError, "alpha"),
    (lambda a: {**a, "previous": a["x"]}, ValueError, "previous"),
)
_SECOND_BAD = (
    (_set("previous", None), ValueError, "previous"),
    (cut("previous"), ValueError, "previous"),
    (_set("sigma_previous", 0.0), ValueError, "sigma_previous"),
)
_NOISE_BAD = (
    (cut("seeds"), ValueError, "seeds"),
    (lambda a: {**a, "seeds": a["seeds"].float()}, TypeError, "seeds"),
    (lambda a: {**a, "seeds": None, "items": None}, ValueError, "seeds"),
    (_set("stream", -1), ValueError, "stream"),
    (lambda a: {**a, **{k: a[k][..., None] for k in ("x", "prediction")}}, ValueError, "x"),
)
_SOME = ("mini-32s", "open-1.0", "sa3-medium-380s-batch-8")
_EDM_GUIDED = {**_EDM, "scale": 4.0}
_LAST = {"sigma_previous": 0.5}  # the level of `previous`
_STEP_CASES = (
    _step_case("euler", "euler", 2.0, 1.4, real=tuple(LATENTS)),
    _step_case("euler-to-0", "euler", 0.5, 0.0, "d"),
    _step_case("euler-guided", "euler", 0.5, 0.3, "ud", options=_EDM_GUIDED, real=_SOME, bad=_STEP_BAD),
    _step_case("euler-rescaled", "euler", 0.5, 0.3, "u", options={**_EDM_GUIDED, "rescale": 0.7}, real=_SOME),
    _step_case("heun", "heun", 0.3, 0.3, "pd", options={**_EDM, **_LAST}, bad=_SECOND_BAD),
    _step_case("heun-guided", "heun", 0.3, 0.3, "up", options={**_EDM_GUIDED, **_LAST}, real=_SOME),
    _step_case("dpm2", "dpm2", 0.4, 0.3, "p", options=_LAST),
    _step_case("dpmpp-2s", "dpmpp_2s", 0.4, 0.3, "up", options={**_EDM, **_LAST, "scale": 0.5}),
    _step_case("dpmpp-2s-plain", "dpmpp_2s", 0.4, 0.3, "p", options=_LAST),
    _step_case("dpmpp-2m", "dpmpp_2m", 0.4, 0.3, "pd", options={**_EDM, **_LAST}, bad=_SECOND_BAD[:2]),
    _step_case(
        "dpmpp-2m-rescaled", "dpmpp_2m", 0.4, 0.3, "upd", options={**_LAST, "scale": 3.0, "rescale": 1.0}
    ),
    _step_case(
        "ddim", "ddim", 0.8, 0.6, options={"alpha": 0.6, "alpha_next": 0.8, "skip": 1 / 0.6, "out": -4 / 3}
    ),
    _step_case("ddim-fresh", "ddim", 0.8, 0.6, "und", options={**_EDM_GUIDED, "eta": 0.6}),
    _step_case("pingpong", "pingpong", 0.8, 0.6, "n", real=_SOME, bad=_NOISE_BAD),
    _step_case(
        "pingpong-flow", "pingpong", 0.8, 0.6, "nd", options={**_FLOW, "alpha": 0.2, "alpha_next": 0.4}
    ),
    _step_case("ctm", "ctm", 0.8, 0.6, "n", options={**_EDM, "eta": 0.5}, real=_SOME),
    _step_case("ctm-rescaled", "ctm", 0.8, 0.6, "un", options={**_EDM_GUIDED, "eta": 1.0, "rescale": 0.5}),
)


def _cfg_case(variant: str, scale: float, rescale: float, real: tuple[str, ...]) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        c = _latent(shape, dtype, rng, -0.2)
        u = (c + 0.3 * _latent(shape, dtype, rng, 0.1)).to(dtype)
        return {"conditional": c, "unconditional": u, "scale": scale, "rescale": rescale}

    return OpCase(
        name="cfg_combine",
        op=cfg_combine,
        reference=cfg_combine_reference,
        make=make,
        small=_DEVIATING if rescale else _SMALL,
        variant=variant,
        gradients=("conditional", "unconditional"),
        gradient_small=_DEVIATING if rescale else _SMALL,
        bad=(
            (cut("unconditional"), ValueError, "unconditional"),
            (other_dtype("unconditional"), TypeError, "unconditional"),
            (_set("rescale", 1.5), ValueError, "rescale"),
            (_set("scale", math.nan), ValueError, "scale"),
        ),
        real={k: LATENTS[k] for k in real},
        bytes_moved=_elements(3),
        eager_bytes=_elements(12 if rescale else 8),
        flops=lambda s: (12 if rescale else 3) * math.prod(s),
    )


DIFFUSION_CASES: tuple[OpCase, ...] = (
    OpCase(
        name="edm_precondition",
        op=edm_precondition,
        reference=edm_precondition_reference,
        make=_edm_precondition_make,
        small=_SMALL,
        gradients=("x",),
        gradient_small=_SMALL,
        bad=(
            (cut("sigma"), ValueError, "sigma"),
            (other_dtype("sigma"), TypeError, "sigma"),
            (_set("sigma_data", 0.0), ValueError, "sigma_data"),
            (_set("x", torch.tensor(1.0)), ValueError, "x"),
        ),
        real=LATENTS,
        bytes_moved=_elements(2),
        eager_bytes=_elements(2),
        flops=lambda s: math.prod(s),
    ),
    OpCase(
        name="edm_denoise",
        op=edm_denoise,
        reference=edm_denoise_reference,
        make=_edm_denoise_make,
        small=_SMALL,
        gradients=("x", "prediction"),
        gradient_small=_SMALL,
        bad=(
            (cut("prediction"), ValueError, "prediction"),
            (other_dtype("prediction"), TypeError, "prediction"),
            (cut("sigma"), ValueError, "sigma"),
            (other_dtype("sigma"), TypeError, "sigma"),
            (_set("sigma_data", 0.0), ValueError, "sigma_data"),
        ),
        real=LATENTS,
        bytes_moved=_elements(3),
        eager_bytes=_elements(7),
        flops=lambda s: 3 * math.prod(s),
    ),
    _ctm_map_case("plain", 0.0, {}),
    _ctm_map_case("preconditioned", 0.5, {k: LATENTS[k] for k in ("open-1.0", "sa3-medium-380s")}),
    OpCase(
        name="renoise",
        op=renoise,
        reference=renoise_reference,
        make=_renoise_make,
        small=_SMALL,
        gradients=("x",),
        gradient_small=_SMALL,
        exact=True,
        bad=(
            (cut("sigma"), ValueError, "sigma"),
            (other_dtype("sigma"), TypeError, "sigma"),
            (cut("seeds"), ValueError, "seeds"),
            (lambda a: {**a, "items": a["items"].to(torch.int32)}, TypeError, "items"),
            (_set("stream", 2**32), ValueError, "stream"),
            (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        ),
        real={k: LATENTS[k] for k in ("mini-32s", "open-1.0", "sa3-medium-380s")},
        bytes_moved=_elements(2),
        eager_bytes=_elements(5),
        flops=lambda s: 42 * math.prod(s),
    ),
    *_STEP_CASES,
    _cfg_case("plain", 4.0, 0.0, tuple(LATENTS)),
    _cfg_case("rescaled", 4.0, 0.7, tuple(LATENTS)),
)
