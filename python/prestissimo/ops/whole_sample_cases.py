# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops that look at whole samples: sums and quantiles over each; part of the table in cases.py."""

from __future__ import annotations

import math

import torch

from .apg_combine import apg_combine
from .apg_combine import reference as apg_combine_reference
from .diffusion_cases import LATENTS, SMALL, SOME, elements, latent, set_to
from .dmd_gradient import dmd_gradient
from .dmd_gradient import reference as dmd_gradient_reference
from .dynamic_threshold import dynamic_threshold
from .dynamic_threshold import reference as dynamic_threshold_reference
from .op_case import Arguments, OpCase, Shape, cut, other_dtype
from .pseudo_huber import pseudo_huber
from .pseudo_huber import reference as pseudo_huber_reference

# one element leaves nothing across itself
_SUMMED = tuple(s for s in SMALL if s[1] * s[2] != 1)


def _apg_case(
    variant: str, eta: float, threshold: float, momentum: float, real: tuple[str, ...] = ()
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        c = latent(shape, dtype, rng, -0.2)
        return {
            "conditional": c,
            "unconditional": (c + 0.5 * latent(shape, dtype, rng, 0.3)).to(dtype),
            "average": latent(shape, dtype, rng, 0.2, 0.4) if momentum else None,
            "scale": 5.0,
            "eta": eta,
            # between the norms of small and large samples
            "threshold": threshold * math.sqrt(math.prod(shape[1:])),
            "momentum": momentum,
        }

    gradients = ("conditional", "unconditional", "average")[: 3 if momentum else 2]
    return OpCase(
        name="apg_combine",
        op=apg_combine,
        reference=apg_combine_reference,
        make=make,
        small=_SUMMED,
        variant=variant,
        gradients=gradients,
        gradient_small=_SUMMED,
        bad=(
            (cut("unconditional"), ValueError, "unconditional"),
            (other_dtype("unconditional"), TypeError, "unconditional"),
            (set_to("average", torch.zeros(1)), ValueError, "average"),
            (set_to("threshold", -1.0), ValueError, "threshold"),
            (set_to("scale", math.inf), ValueError, "scale"),
            (set_to("eta", math.nan), ValueError, "eta"),
        ),
        real={k: LATENTS[k] for k in real},
        # two readings of everything: the sums must be known before the first result
        bytes_moved=elements(8 if momentum else 6),
        eager_bytes=elements(27 if momentum else 24),
        flops=lambda s: 13 * math.prod(s),
    )


def _dmd_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    x, real = latent(shape, dtype, rng, 0.1), latent(shape, dtype, rng, -0.2)
    if shape[0] > 1:
        real[1] = x[1]  # a mean of zero: infinities and, where fake is real too, NaN
    fake = (real + 0.2 * latent(shape, dtype, rng, 0.1)).to(dtype)
    fake.view(-1)[-1:] = real.view(-1)[-1:]
    return {"x": x, "fake": fake, "real": real, "eps": 0.0}


def _huber_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    x = latent(shape, dtype, rng, 0.1)
    return {"x": x, "y": (x + 0.3 * latent(shape, dtype, rng, -0.2)).to(dtype), "c": 0.3}


_SUM_CASES = (
    _apg_case("plain", 0.0, 0.0, 0.0, real=SOME),
    _apg_case("short", 0.3, 0.4, 0.0),
    _apg_case("momentum", 0.0, 0.5, -0.75, real=("mini-32s", "open-1.0")),
    OpCase(
        name="dmd_gradient",
        op=dmd_gradient,
        reference=dmd_gradient_reference,
        make=_dmd_make,
        small=SMALL,
        bad=(
            (cut("fake"), ValueError, "fake"),
            (other_dtype("real"), TypeError, "real"),
            (set_to("eps", -1.0), ValueError, "eps"),
        ),
        real={k: LATENTS[k] for k in SOME},
        bytes_moved=elements(5),
        eager_bytes=elements(16),
        flops=lambda s: 8 * math.prod(s),
    ),
    OpCase(
        name="pseudo_huber",
        op=pseudo_huber,
        reference=pseudo_huber_reference,
        make=_huber_make,
        small=SMALL,
        gradients=("x", "y"),
        gradient_small=SMALL,
        bad=(
            (cut("y"), ValueError, "y"),
            (other_dtype("y"), TypeError, "y"),
            (set_to("c", -1.0), ValueError, "c"),
        ),
        real={k: LATENTS[k] for k in SOME},
        bytes_moved=elements(2),
        eager_bytes=elements(6),
        flops=lambda s: 3 * math.prod(s),
    ),
)


def _threshold_case(
    variant: str, quantile: float, values: str, real: dict[str, Shape] | None = None
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        x = latent(shape, torch.float64, rng, 0.2, 1.5)
        x = (2 * x).round() / 2 if values == "few" else x  # many of one magnitude
        x[1:2] *= 0.1  # below the floor
        return {"x": x.to(dtype), "quantile": quantile, "floor": 1.0}

    return OpCase(
        name="dynamic_threshold",
        op=dynamic_threshold,
        reference=lambda **arguments: dynamic_threshold_reference(**arguments)[0],
        make=make,
        small=SMALL,
        variant=variant,
        gradients=("x",),
        gradient_small=SMALL,
        smooth=values != "few",  # among equal elements the quantile has a kink
        bad=(
            (set_to("quantile", 1.5), ValueError, "quantile"),
            (set_to("floor", 0.0), ValueError, "floor"),
            (set_to("x", torch.tensor(1.0)), ValueError, "x"),
        ),
        real=real or {},
        # a reading to find the quantile, and one to clip
        bytes_moved=elements(3),
        eager_bytes=elements(10),
        flops=lambda s: 4 * math.prod(s),
    )


_SPECTROGRAM = {"ditto": (1, 160, 512)}
_THRESHOLD_CASES = (
    _threshold_case("far", 0.995, "normal", _SPECTROGRAM | {k: LATENTS[k] for k in SOME}),
    _threshold_case("few", 0.5, "few"),
    _threshold_case("most", 1.0, "normal"),
)

WHOLE_SAMPLE_CASES: tuple[OpCase, ...] = (*_SUM_CASES, *_THRESHOLD_CASES)
