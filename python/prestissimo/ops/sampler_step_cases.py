# SPDX-License-Identifier: Apache-2.0
"""Cases of `sampler_step`: every method, guidance and parameterisation, and each with another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .diffusion_cases import DEVIATING, LATENTS, SMALL, SOME, elements, latent, noise_words, set_to
from .op_case import Arguments, OpCase, Shape, cut, other_dtype
from .sampler_step import reference as sampler_step_reference
from .sampler_step import sampler_step, step_weights

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
    small = DEVIATING if settings["rescale"] else SMALL

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        F = latent(shape, dtype, rng, -0.2)
        seeds, items = noise_words(shape[0], rng) if "n" in arrays else (None, None)
        return {
            "x": latent(shape, dtype, rng, 0.1, 1.5),
            "prediction": F,
            "method": method,
            "sigma": sigma,
            "sigma_next": sigma_next,
            "unconditional": (F + 0.3 * latent(shape, dtype, rng, 0.1)).to(dtype) if "u" in arrays else None,
            "previous": latent(shape, dtype, rng, 0.3) if "p" in arrays else None,
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
        bytes_moved=elements(moved),
        eager_bytes=elements(eager),
        flops=lambda s: (3 + 3 * len(arrays)) * math.prod(s),
    )


def _step_reference(denoised: bool, **arguments: object) -> Tensor | tuple[Tensor, Tensor]:
    y, d = sampler_step_reference(**arguments, denoised=denoised)  # type: ignore[arg-type]
    return (y, d) if denoised else y


_STEP_BAD = (
    (cut("prediction"), ValueError, "prediction"),
    (other_dtype("unconditional"), TypeError, "unconditional"),
    (cut("unconditional"), ValueError, "unconditional"),
    (set_to("method", "rk4"), ValueError, "method"),
    (set_to("sigma", 0.0), ValueError, "sigma"),
    (set_to("sigma_next", -1.0), ValueError, "sigma_next"),
    (set_to("eta", 1.5), ValueError, "eta"),
    (set_to("rescale", -0.5), ValueError, "rescale"),
    (set_to("scale", math.inf), ValueError, "scale"),
    (set_to("alpha", 0.9), ValueError, "alpha"),
    (lambda a: {**a, "previous": a["x"]}, ValueError, "previous"),
)
_SECOND_BAD = (
    (set_to("previous", None), ValueError, "previous"),
    (cut("previous"), ValueError, "previous"),
    (set_to("sigma_previous", 0.0), ValueError, "sigma_previous"),
)
_NOISE_BAD = (
    (cut("seeds"), ValueError, "seeds"),
    (lambda a: {**a, "seeds": a["seeds"].float()}, TypeError, "seeds"),
    (lambda a: {**a, "seeds": None, "items": None}, ValueError, "seeds"),
    (set_to("stream", -1), ValueError, "stream"),
    (lambda a: {**a, **{k: a[k][..., None] for k in ("x", "prediction")}}, ValueError, "x"),
)
_EDM_GUIDED = {**_EDM, "scale": 4.0}
_LAST = {"sigma_previous": 0.5}  # the level of `previous`
SAMPLER_STEP_CASES: tuple[OpCase, ...] = (
    _step_case("euler", "euler", 2.0, 1.4, real=tuple(LATENTS)),
    _step_case("euler-to-0", "euler", 0.5, 0.0, "d"),
    _step_case("euler-guided", "euler", 0.5, 0.3, "ud", options=_EDM_GUIDED, real=SOME, bad=_STEP_BAD),
    _step_case("euler-rescaled", "euler", 0.5, 0.3, "u", options={**_EDM_GUIDED, "rescale": 0.7}, real=SOME),
    _step_case("heun", "heun", 0.3, 0.3, "pd", options={**_EDM, **_LAST}, bad=_SECOND_BAD),
    _step_case("heun-guided", "heun", 0.3, 0.3, "up", options={**_EDM_GUIDED, **_LAST}, real=SOME),
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
    _step_case("pingpong", "pingpong", 0.8, 0.6, "n", real=SOME, bad=_NOISE_BAD),
    _step_case(
        "pingpong-flow", "pingpong", 0.8, 0.6, "nd", options={**_FLOW, "alpha": 0.2, "alpha_next": 0.4}
    ),
    _step_case("ctm", "ctm", 0.8, 0.6, "n", options={**_EDM, "eta": 0.5}, real=SOME),
    _step_case("ctm-rescaled", "ctm", 0.8, 0.6, "un", options={**_EDM_GUIDED, "eta": 1.0, "rescale": 0.5}),
)
