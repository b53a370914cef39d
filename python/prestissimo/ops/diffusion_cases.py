# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops between a diffusion network and its sampler; part of the table in cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable

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

# (batch, channels, frames); lanes and chunks of the kernels, one less and one more
SMALL: tuple[Shape, ...] = (
    (2, 3, 24), (1, 1, 1), (1, 3, 5), (2, 2, 4), (1, 1, 7), (3, 1, 8), (1, 3, 3), (2, 5, 3), (1, 4, 4), (2, 1, 17),
    (1, 1, 31), (3, 4, 8), (1, 3, 11), (2, 7, 13), (0, 4, 16), (2, 0, 16), (1, 8, 513), (2, 64, 129), (1, 1, 4097),
    (1, 33, 600),
)  # fmt: skip
# with a standard deviation over channels: one has none, and few that are nearly equal leave it no digits
DEVIATING = (*(s for s in SMALL if s[1] > 4 and s[0] > 0), (3, 6, 8), (2, 16, 17), (1, 256, 70))
# Latents of the bundled model and of Stable Audio's; the last is large enough that a copy leaves the caches
LATENTS: dict[str, Shape] = {
    "mini-12s": (1, 128, 129),
    "mini-32s": (1, 128, 345),
    "open-small": (1, 64, 256),
    "open-1.0": (1, 64, 1024),
    "open-1.0-batch-8": (8, 64, 1024),
    "sa3-medium-380s": (1, 256, 4096),
    "sa3-medium-380s-batch-8": (8, 256, 4096),
}

SOME = ("mini-32s", "open-1.0", "sa3-medium-380s-batch-8")


def draw_sigma(B: int, rng: torch.Generator, low: float = 0.002, high: float = 80.0) -> Tensor:
    u = torch.rand(B, generator=rng, dtype=torch.float64)
    return (math.log(low) + u * math.log(high / low)).exp().float()


def latent(shape: Shape, dtype: torch.dtype, rng: torch.Generator, mean: float, std: float = 1.0) -> Tensor:
    """With a few values far out."""
    x = noise(shape, torch.float64, rng, mean, std)
    return (x * (1 + 29 * (torch.rand(shape, generator=rng) < 0.001))).to(dtype)


def elements(passes: int) -> Callable[[Shape, int], int]:
    return lambda shape, item: passes * math.prod(shape) * item


def set_to(name: str, value: object) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, name: value}


def _edm_precondition_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    sigma = draw_sigma(shape[0], rng)
    x = latent(shape, torch.float64, rng, 0.1) * sigma.double().reshape(-1, 1, 1)
    return {"x": x.to(dtype), "sigma": sigma, "sigma_data": 0.5}


def _edm_denoise_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    a = _edm_precondition_make(shape, dtype, rng)
    return {
        "x": a["x"],
        "prediction": latent(shape, dtype, rng, -0.2),
        "sigma": a["sigma"],
        "sigma_data": 0.5,
    }


def _ctm_map_make(sigma_data: float) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        t = draw_sigma(shape[0], rng)
        # s = t and s = 0, the ends of the trajectory, among the samples
        s = t * torch.rand(shape[0], generator=rng) * (torch.arange(shape[0]) != 1)
        s[2:3] = t[2:3]
        return {
            "x": latent(shape, dtype, rng, 0.1),
            "prediction": latent(shape, dtype, rng, -0.2),
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
        small=SMALL,
        variant=variant,
        gradients=("x", "prediction"),
        gradient_small=SMALL,
        bad=(
            (cut("prediction"), ValueError, "prediction"),
            (other_dtype("prediction"), TypeError, "prediction"),
            (cut("t"), ValueError, "t"),
            (cut("s"), ValueError, "s"),
            (other_dtype("s"), TypeError, "s"),
            (set_to("sigma_data", -1.0), ValueError, "sigma_data"),
        ),
        real=real,
        bytes_moved=elements(3),
        eager_bytes=elements(7),
        flops=lambda s: 3 * math.prod(s),
    )


def noise_words(B: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Seeds and items."""
    seeds = torch.randint(-(2**63), 2**63 - 1, (B,), generator=rng)
    return seeds, torch.randint(0, 2**32, (B,), generator=rng)


def _renoise_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    seeds, items = noise_words(shape[0], rng)
    x = latent(shape, dtype, rng, 0.1)
    return {"x": x, "sigma": draw_sigma(shape[0], rng), "seeds": seeds, "items": items, "stream": 5}


def _cfg_case(variant: str, scale: float, rescale: float, real: tuple[str, ...]) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        c = latent(shape, dtype, rng, -0.2)
        u = (c + 0.3 * latent(shape, dtype, rng, 0.1)).to(dtype)
        return {"conditional": c, "unconditional": u, "scale": scale, "rescale": rescale}

    return OpCase(
        name="cfg_combine",
        op=cfg_combine,
        reference=cfg_combine_reference,
        make=make,
        small=DEVIATING if rescale else SMALL,
        variant=variant,
        gradients=("conditional", "unconditional"),
        gradient_small=DEVIATING if rescale else SMALL,
        bad=(
            (cut("unconditional"), ValueError, "unconditional"),
            (other_dtype("unconditional"), TypeError, "unconditional"),
            (set_to("rescale", 1.5), ValueError, "rescale"),
            (set_to("scale", math.nan), ValueError, "scale"),
        ),
        real={k: LATENTS[k] for k in real},
        bytes_moved=elements(3),
        eager_bytes=elements(12 if rescale else 8),
        flops=lambda s: (12 if rescale else 3) * math.prod(s),
    )


DIFFUSION_CASES: tuple[OpCase, ...] = (
    OpCase(
        name="edm_precondition",
        op=edm_precondition,
        reference=edm_precondition_reference,
        make=_edm_precondition_make,
        small=SMALL,
        gradients=("x",),
        gradient_small=SMALL,
        bad=(
            (cut("sigma"), ValueError, "sigma"),
            (other_dtype("sigma"), TypeError, "sigma"),
            (set_to("sigma_data", 0.0), ValueError, "sigma_data"),
            (set_to("x", torch.tensor(1.0)), ValueError, "x"),
        ),
        real=LATENTS,
        bytes_moved=elements(2),
        eager_bytes=elements(2),
        flops=lambda s: math.prod(s),
    ),
    OpCase(
        name="edm_denoise",
        op=edm_denoise,
        reference=edm_denoise_reference,
        make=_edm_denoise_make,
        small=SMALL,
        gradients=("x", "prediction"),
        gradient_small=SMALL,
        bad=(
            (cut("prediction"), ValueError, "prediction"),
            (other_dtype("prediction"), TypeError, "prediction"),
            (cut("sigma"), ValueError, "sigma"),
            (other_dtype("sigma"), TypeError, "sigma"),
            (set_to("sigma_data", 0.0), ValueError, "sigma_data"),
        ),
        real=LATENTS,
        bytes_moved=elements(3),
        eager_bytes=elements(7),
        flops=lambda s: 3 * math.prod(s),
    ),
    _ctm_map_case("plain", 0.0, {}),
    _ctm_map_case("preconditioned", 0.5, {k: LATENTS[k] for k in ("open-1.0", "sa3-medium-380s")}),
    OpCase(
        name="renoise",
        op=renoise,
        reference=renoise_reference,
        make=_renoise_make,
        small=SMALL,
        gradients=("x",),
        gradient_small=SMALL,
        exact=True,
        bad=(
            (cut("sigma"), ValueError, "sigma"),
            (other_dtype("sigma"), TypeError, "sigma"),
            (cut("seeds"), ValueError, "seeds"),
            (lambda a: {**a, "items": a["items"].to(torch.int32)}, TypeError, "items"),
            (set_to("stream", 2**32), ValueError, "stream"),
            (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        ),
        real={k: LATENTS[k] for k in ("mini-32s", "open-1.0", "sa3-medium-380s")},
        bytes_moved=elements(2),
        eager_bytes=elements(5),
        flops=lambda s: 42 * math.prod(s),
    ),
    _cfg_case("plain", 4.0, 0.0, tuple(LATENTS)),
    _cfg_case("rescaled", 4.0, 0.7, tuple(LATENTS)),
)
