# SPDX-License-Identifier: Apache-2.0
"""One step of a diffusion sampler, guidance and preconditioning folded in: one pass over the latent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from .philox_normal import words
from .registration import Op, _core, empty_like, expect_latent, expect_like, launch, new_empty
from .renoise import check_noise, frame_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

METHODS = ("euler", "heun", "dpm2", "dpmpp_2s", "dpmpp_2m", "ddim", "pingpong", "ctm")
_SECOND_STAGES = ("heun", "dpm2", "dpmpp_2s")


def sampler_step(
    x: Any,
    prediction: Any,
    method: str,
    sigma: float,
    sigma_next: float,
    unconditional: Any = None,
    previous: Any = None,
    sigma_previous: float = 0.0,
    skip: float = 0.0,
    out: float = 1.0,
    scale: float = 1.0,
    rescale: float = 0.0,
    eta: float = 0.0,
    alpha: float = 1.0,
    alpha_next: float = 1.0,
    seeds: Sequence[int] | Any = None,
    items: Any = None,
    stream: int = 0,
    denoised: bool = False,
) -> Any:
    """x' = a·D + b·x + p·previous + n·z with the method's weights, D the denoised estimate at (x, σ).

    D = out·(F_u + scale·(F − F_u)) + skip·x; with rescale φ, D ← D·(φ·std(D_c)/std(D) + 1 − φ), D_c the D of F alone
    and std over channels. The methods, h = σ' − σ:

        euler     x + h·(x − D)/σ; also the first stage of heun (to σ'), dpm2 and dpmpp_2s (to √(σσ'))
        heun      (previous + x)/2 + (σ − σ₋)/2·(x − D)/σ, x Euler's point at σ = σ'; previous the latent at σ₋
        dpm2      previous + (σ' − σ₋)·(x − D)/σ, x the midpoint; previous the latent at σ₋
        dpmpp_2s  (σ'/σ₋)·previous + (1 − σ'/σ₋)·D, likewise
        dpmpp_2m  (σ'/σ)·x + (1 − σ'/σ)·((1 + 1/2r)·D − previous/2r), r = ln(σ₋/σ)/ln(σ/σ'); previous is D at σ₋;
                  euler without it and where σ' = 0
        ddim      α'·D + √(σ'² − s²)·(x − α·D)/σ + s·z, s = η·σ'·√(1 − (ασ'/α'σ)²)
        pingpong  α'·D + σ'·z
        ctm       G + γσ'·z, G = (s/σ)·x + (1 − s/σ)·D, s = √(1 − γ²)·σ', γ = eta

    Args:
        x: the latent at noise level σ, [B, ...], float32, bfloat16 or float16 (float64: the reference).
        prediction: F, the network's output for the prompts, like x.
        method: one of those above. sigma, sigma_next, sigma_previous: σ, σ', σ₋; 0 <= σ' and 0 < σ.
        unconditional: F_u, the network's output without the prompts, like x; scale: guidance.
        previous: like x, for the second stages and dpmpp_2m.
        skip, out: the parameterisation. 0, 1 where the network predicts D; EDM: its c_skip and c_out; noise:
            1/α, −σ/α; v: α, −σ; rectified flow: 1, −σ.
        eta: η of ddim or γ of ctm, in [0, 1].
        alpha, alpha_next: of ddim and pingpong, where x = α·D + σ·noise; 1 in EDM's form.
        seeds, items, stream: z is `renoise`'s, and x [B, C, T]; needed where noise is added.
        denoised: whether to return D too.

    Returns:
        x', or (x', D): shape, dtype and kind of x. Differentiable in x, prediction, unconditional and previous.

    Raises:
        ValueError: an argument that does not fit, by its name.
        TypeError: dtypes that differ from x's, or that no kernel takes.

    Source: Karras et al. (arXiv 2206.00364); Lu et al. (2206.00927, 2211.01095); Song et al. (2010.02502); Kim et
    al. (2310.02279); Lin et al. (2305.08891) for the rescale.

    >>> import numpy as np
    >>> x, d = np.float32([[[8.0]]]), np.float32([[[2.0]]])
    >>> float(sampler_step(x, d, "euler", sigma=4.0, sigma_next=1.0)[0, 0, 0])  # 8 + (1 - 4)(8 - 2)/4
    3.5
    """
    if seeds is not None:
        seeds = words("sampler_step", "seeds", seeds, like=x)
        items = words("sampler_step", "items", [0] * len(seeds) if items is None else items, like=x)
    y, d = _op(
        x, prediction, method, sigma, sigma_next, unconditional, previous, sigma_previous, skip, out, scale, rescale,
        eta, alpha, alpha_next, seeds, items, stream, denoised,
    )  # fmt: skip
    return (y, d) if denoised else y


class StepWeights(NamedTuple):
    """Of D, x, previous and z in the next latent."""

    denoised: float
    x: float
    previous: float = 0.0
    noise: float = 0.0


def step_weights(
    method: str,
    sigma: float,
    sigma_next: float,
    sigma_previous: float = 0.0,
    eta: float = 0.0,
    alpha: float = 1.0,
    alpha_next: float = 1.0,
) -> StepWeights:
    """The weights of one step; sigma_previous is 0 where there is no previous."""
    if method not in METHODS:
        raise ValueError(f"sampler_step: method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sampler_step: sigma must be positive and finite, got {sigma}")
    if not 0 <= sigma_next < math.inf:
        raise ValueError(f"sampler_step: sigma_next must be at least 0 and finite, got {sigma_next}")
    if not 0 <= sigma_previous < math.inf or (method in _SECOND_STAGES and sigma_previous == 0):
        raise ValueError(f"sampler_step: sigma_previous must be positive and finite, got {sigma_previous}")
    if not 0 <= eta <= 1:
        raise ValueError(f"sampler_step: eta must be in [0, 1], got {eta}")
    for name, value in (("alpha", alpha), ("alpha_next", alpha_next)):
        if not 0 < value < math.inf or (value != 1 and method not in ("ddim", "pingpong")):
            wanted = "positive and finite" if method in ("ddim", "pingpong") else f"1 for {method}"
            raise ValueError(f"sampler_step: {name} must be {wanted}, got {value}")
    keep, move = sigma_next / sigma, (sigma - sigma_next) / sigma
    if method == "heun":
        if sigma_next != sigma:
            raise ValueError(f"sampler_step: sigma_next must equal sigma for heun, got {sigma_next}")
        half = (sigma - sigma_previous) / (2 * sigma)
        return StepWeights(-half, 0.5 + half, 0.5)
    if method == "dpm2":
        slope = (sigma_next - sigma_previous) / sigma
        return StepWeights(-slope, slope, 1.0)
    if method == "dpmpp_2s":
        return StepWeights((sigma_previous - sigma_next) / sigma_previous, 0.0, sigma_next / sigma_previous)
    if method == "dpmpp_2m" and sigma_previous > 0 and sigma_next > 0:
        if not sigma_previous > sigma > sigma_next:
            raise ValueError(f"sampler_step: sigma_previous must be above sigma, and that above sigma_next, got "
                             f"{sigma_previous}, {sigma}, {sigma_next}")  # fmt: skip
        extrapolate = math.log(sigma / sigma_next) / (2 * math.log(sigma_previous / sigma))
        return StepWeights(move * (1 + extrapolate), keep, -move * extrapolate)
    if method == "ddim":
        share = min(1.0, (alpha * sigma_next) / (alpha_next * sigma))
        fresh = eta * sigma_next * math.sqrt(1 - share * share)
        down = math.sqrt(sigma_next * sigma_next - fresh * fresh)
        return StepWeights((alpha_next * sigma - alpha * down) / sigma, down / sigma, 0.0, fresh)
    if method == "pingpong":
        return StepWeights(alpha_next, 0.0, 0.0, sigma_next)
    if method == "ctm":
        down = math.sqrt(1 - eta * eta) * sigma_next
        return StepWeights((sigma - down) / sigma, down / sigma, 0.0, eta * sigma_next)
    return StepWeights(move, keep)


def guided(
    x: Tensor | None,
    prediction: Tensor,
    unconditional: Tensor | None,
    skip: float,
    out: float,
    scale: float,
    rescale: float,
) -> Tensor:
    """D in plain PyTorch; shared with `cfg_combine`."""
    F = prediction
    if unconditional is not None and scale != 1:
        F = prediction + (scale - 1) * (prediction - unconditional)

    def parameterised(F: Tensor) -> Tensor:
        D = F if out == 1 else out * F
        return D if x is None or skip == 0 else D + skip * x

    D = parameterised(F)
    if unconditional is None or scale == 1 or rescale == 0:
        return D
    D_c = parameterised(prediction)
    ratio = D_c.std(dim=1, keepdim=True) / D.std(dim=1, keepdim=True).clamp_min(1e-12)
    return D * (rescale * ratio + (1 - rescale))


def reference(
    x: Tensor,
    prediction: Tensor,
    method: str,
    sigma: float,
    sigma_next: float,
    unconditional: Tensor | None = None,
    previous: Tensor | None = None,
    sigma_previous: float = 0.0,
    skip: float = 0.0,
    out: float = 1.0,
    scale: float = 1.0,
    rescale: float = 0.0,
    eta: float = 0.0,
    alpha: float = 1.0,
    alpha_next: float = 1.0,
    seeds: Tensor | None = None,
    items: Tensor | None = None,
    stream: int = 0,
    denoised: bool = False,
) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: oracle, baseline and documentation of `sampler_step`."""
    w = step_weights(method, sigma, sigma_next, sigma_previous, eta, alpha, alpha_next)
    D = guided(x, prediction, unconditional, skip, out, scale, rescale)
    y = w.denoised * D
    if w.x:
        y = y + w.x * x
    if w.previous and previous is not None:
        y = y + w.previous * previous
    if w.noise and seeds is not None and items is not None:
        y = y + w.noise * frame_noise(x.shape, seeds, items, stream).to(x.dtype)
    # two outputs of an op may not be one tensor
    return y, D.clone() if denoised else x.new_empty(0)


def _check(
    x: Any, prediction: Any, method: str, sigma: float, sigma_next: float, unconditional: Any, previous: Any,
    sigma_previous: float, skip: float, out: float, scale: float, rescale: float, eta: float, alpha: float,
    alpha_next: float, seeds: Any, items: Any, stream: int, denoised: bool,
) -> None:  # fmt: skip
    w = step_weights(method, sigma, sigma_next, sigma_previous, eta, alpha, alpha_next)
    _check_options(method, previous, sigma_previous, scale, rescale, skip, out)
    expect_latent("sampler_step", "x", x)
    for name, a in (("prediction", prediction), ("unconditional", unconditional), ("previous", previous)):
        expect_like("sampler_step", name, a, x)
    check_noise("sampler_step", x, seeds, items, stream)
    if w.noise and seeds is None:
        raise ValueError("sampler_step: seeds must be given for a step that adds noise")
    if w.noise and len(x.shape) != 3:
        raise ValueError(f"sampler_step: x must have 3 dimensions for noise, got shape {list(x.shape)}")
    if rescale and unconditional is not None and len(x.shape) < 2:
        raise ValueError(f"sampler_step: x must have at least 2 dimensions for rescale, got {list(x.shape)}")


def _check_options(
    method: str, previous: Any, sigma_previous: float, scale: float, rescale: float, skip: float, out: float
) -> None:
    """What no kernel can see."""
    if method in _SECOND_STAGES or (method == "dpmpp_2m" and sigma_previous > 0):
        if previous is None:
            raise ValueError(f"sampler_step: previous must be given for {method}")
    elif previous is not None:
        raise ValueError(f"sampler_step: previous must be absent for {method} without sigma_previous")
    for name, value in (("skip", skip), ("out", out), ("scale", scale)):
        if not math.isfinite(value):
            raise ValueError(f"sampler_step: {name} must be finite, got {value}")
    if not 0 <= rescale <= 1:
        raise ValueError(f"sampler_step: rescale must be in [0, 1], got {rescale}")


def _kernel(
    x: Any, prediction: Any, method: str, sigma: float, sigma_next: float, unconditional: Any, previous: Any,
    sigma_previous: float, skip: float, out: float, scale: float, rescale: float, eta: float, alpha: float,
    alpha_next: float, seeds: Any, items: Any, stream: int, denoised: bool,
) -> tuple[Any, Any]:  # fmt: skip
    w = step_weights(method, sigma, sigma_next, sigma_previous, eta, alpha, alpha_next)
    _check_options(method, previous, sigma_previous, scale, rescale, skip, out)
    y = empty_like(x)
    d = empty_like(x) if denoised else None
    launch(_core.sampler_step, x, prediction, unconditional, previous, seeds, items, stream, scale - 1, rescale,
           skip, out, *w, y, d)  # fmt: skip
    return y, new_empty(x, (0,)) if d is None else d


_op = Op(
    "sampler_step(Tensor x, Tensor prediction, str method, float sigma, float sigma_next, Tensor? unconditional,"
    " Tensor? previous, float sigma_previous, float skip, float out, float scale, float rescale, float eta,"
    " float alpha, float alpha_next, Tensor? seeds, Tensor? items, int stream, bool denoised) -> (Tensor, Tensor)",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *args: (x.new_empty(x.shape), x.new_empty(x.shape if args[-1] else 0)),
    check=_check,
)


# ---- backward: linear but for the rescale, whose inputs are saved; a gradient that nobody wants comes back empty


def backward_reference(
    dy: Tensor,
    ddenoised: Tensor | None,
    x: Tensor | None,
    prediction: Tensor | None,
    unconditional: Tensor | None,
    weights: list[float],
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """The closed form in csrc/ops/sampler_step.h, in plain PyTorch."""
    guidance, rescale, skip, out, a, b, p, _ = weights
    e = a * dy if ddenoised is None else a * dy + ddenoised
    raw, conditional = e, 0 * e
    if prediction is not None and unconditional is not None:
        D_c = guided(x, prediction, None, skip, out, 1.0, 0.0)
        D = guided(x, prediction, unconditional, skip, out, guidance + 1, 0.0)
        deviation_c, deviation = (v.std(dim=1, keepdim=True) for v in (D_c, D))
        least = deviation.clamp_min(1e-12)
        ratio = deviation_c / least
        common = (e * D).sum(dim=1, keepdim=True) * rescale / ((D.shape[1] - 1) * least)
        pull = (common * ratio / least).masked_fill(deviation < 1e-12, 0)
        pull_c = (common / deviation_c).masked_fill(deviation_c == 0, 0)
        raw = (rescale * ratio + 1 - rescale) * e - pull * (D - D.mean(dim=1, keepdim=True))
        conditional = pull_c * (D_c - D_c.mean(dim=1, keepdim=True))
    of_x = skip * (raw + conditional) if skip else 0 * e
    grads = (
        of_x + b * dy if b else of_x,
        out * ((1 + guidance) * raw + conditional),
        -out * guidance * raw,
        p * dy,
    )
    return tuple(g.to(dy.dtype) if want else dy.new_empty(0) for g, want in zip(grads, wanted, strict=True))


def _backward_kernel(
    dy: Any,
    ddenoised: Any,
    x: Any,
    prediction: Any,
    unconditional: Any,
    weights: list[float],
    wanted: list[bool],
) -> tuple[Any, ...]:
    out = [empty_like(dy) if want else None for want in wanted]
    launch(_core.sampler_step_backward, dy, ddenoised, x, prediction, unconditional, *weights, *out)
    return tuple(new_empty(dy, (0,)) if d is None else d for d in out)


_backward_op = Op(
    "sampler_step_backward(Tensor dy, Tensor? ddenoised, Tensor? x, Tensor? prediction, Tensor? unconditional,"
    " float[] weights, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dy, *args: tuple(dy.new_empty(dy.shape if want else 0) for want in args[-1]),
)


def step_gradients(
    dy: Tensor, ddenoised: Tensor | None, saved: tuple[Any, ...], weights: list[float], needed: list[bool]
) -> tuple[Any, ...]:
    """Of x, prediction, unconditional and previous, None where none is needed; shared with `cfg_combine`."""
    grads = _backward_op(dy, ddenoised, *saved, weights, needed)
    return tuple(g if n else None for g, n in zip(grads, needed, strict=True))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    (x, prediction, method, sigma, sigma_next, unconditional, _, sigma_previous, skip, out, scale, rescale,
     eta, alpha, alpha_next, *_noise, ctx.denoised) = inputs  # fmt: skip
    w = step_weights(method, sigma, sigma_next, sigma_previous, eta, alpha, alpha_next)
    is_guided = unconditional is not None and scale != 1
    ctx.weights = [scale - 1 if is_guided else 0.0, rescale, skip, out, *w]
    # which of the four reach an output at all
    ctx.used = (bool(w.x or skip), True, is_guided, bool(w.previous))
    saved = (x if skip else None, prediction, unconditional) if is_guided and rescale else (None,) * 3
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*saved)


def _gradient(ctx: Any, dy: Tensor | None, ddenoised: Tensor | None) -> tuple[Any, ...]:
    ddenoised = ddenoised if ctx.denoised else None
    if dy is None:
        if ddenoised is None:
            return (None,) * 19
        dy = ddenoised.new_zeros(ddenoised.shape)
    needed = [
        n and used for n, used in zip((ctx.needs_input_grad[i] for i in (0, 1, 5, 6)), ctx.used, strict=True)
    ]
    dx, dc, du, dp = step_gradients(dy, ddenoised, ctx.saved_tensors, ctx.weights, needed)
    return (dx, dc, None, None, None, du, dp, *[None] * 12)


_op.gradient(_gradient, _setup)
