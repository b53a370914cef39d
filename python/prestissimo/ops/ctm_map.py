# SPDX-License-Identifier: Apache-2.0
"""The map along a trajectory, from noise level t to s, of consistency trajectory models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import (
    Op,
    _core,
    empty_like,
    expect_latent,
    expect_like,
    expect_per_sample,
    launch,
    new_empty,
    per_sample,
)

if TYPE_CHECKING:
    from torch import Tensor


def ctm_map(x: Any, prediction: Any, t: Any, s: Any, sigma_data: float = 0.0) -> Any:
    """G = (s/t)·x + (1 − s/t)·g, g = F, or with σ_d > 0 the preconditioned g = c_skip(t)·x + c_out(t)·F.

    Args:
        x: the latent at noise level t, [B, ...], float32, bfloat16 or float16 (float64: the reference).
        prediction: F(x, t, s), like x.
        t, s: float32 [B], or one number for all samples; t > 0. s = t gives x, s = 0 gives g.
        sigma_data: σ_d of `edm_denoise`'s scalings, 0 where `prediction` is g itself.

    Returns:
        The latent at noise level s: shape, dtype and kind (torch, NumPy, …) of x. Differentiable in x and
        prediction.

    Raises:
        ValueError: a shape or sigma_data that does not fit, naming the argument.
        TypeError: dtypes that differ from x's, or that no kernel takes.

    Source: Kim et al., "Consistency trajectory models" (arXiv 2310.02279), equation 9.

    >>> import numpy as np
    >>> ctm_map(np.float32([[4.0]]), np.float32([[1.0]]), t=2.0, s=0.5)
    array([[1.75]], dtype=float32)
    """
    return _op(x, prediction, per_sample(x, t), per_sample(x, s), sigma_data)


def _weights(t: Tensor, s: Tensor, sigma_data: float, dims: int) -> tuple[Tensor, Tensor]:
    """Of x and of prediction."""
    t, s = (v.reshape(-1, *[1] * (dims - 1)) for v in (t, s))
    keep, rest = s / t, (t - s) / t
    if sigma_data == 0:
        return keep, rest
    variance = t**2 + sigma_data**2
    return keep + rest * (sigma_data**2 / variance), rest * (t * sigma_data * variance.rsqrt())


def reference(x: Tensor, prediction: Tensor, t: Tensor, s: Tensor, sigma_data: float = 0.0) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `ctm_map`."""
    u, v = _weights(t, s, sigma_data, x.dim())
    return (u * x + v * prediction).to(x.dtype)


def _check(x: Any, prediction: Any, t: Any, s: Any, sigma_data: float) -> None:
    expect_latent("ctm_map", "x", x)
    expect_like("ctm_map", "prediction", prediction, x)
    expect_per_sample("ctm_map", "t", t, x)
    expect_per_sample("ctm_map", "s", s, x)
    if not sigma_data >= 0:
        raise ValueError(f"ctm_map: sigma_data must be at least 0, got {sigma_data}")


def _kernel(x: Any, prediction: Any, t: Any, s: Any, sigma_data: float) -> Any:
    y = empty_like(x)
    launch(_core.ctm_map, x, prediction, t, s, sigma_data, y)
    return y


_op = Op(
    "ctm_map(Tensor x, Tensor prediction, Tensor t, Tensor s, float sigma_data) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *_: x.new_empty(x.shape),
    check=_check,
)


# ---- backward: a gradient that nobody wants comes back as an empty array


def backward_reference(
    dy: Tensor, t: Tensor, s: Tensor, sigma_data: float, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """dx and dprediction: dy times the weights of the forward."""
    weights = _weights(t, s, sigma_data, dy.dim())
    dx, df = (
        (w * dy).to(dy.dtype) if want else dy.new_empty(0) for w, want in zip(weights, wanted, strict=True)
    )
    return dx, df


def _backward_kernel(dy: Any, t: Any, s: Any, sigma_data: float, wanted: list[bool]) -> tuple[Any, Any]:
    dx, df = (empty_like(dy) if want else None for want in wanted)
    launch(_core.ctm_map_backward, dy, t, s, sigma_data, dx, df)
    return tuple(new_empty(dy, (0,)) if d is None else d for d in (dx, df))  # type: ignore[return-value]


_backward_op = Op(
    "ctm_map_backward(Tensor dy, Tensor t, Tensor s, float sigma_data, bool[] wanted) -> (Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dy, t, s, sigma_data, wanted: tuple(dy.new_empty(dy.shape if w else 0) for w in wanted),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *_, t, s, ctx.sigma_data = inputs
    ctx.save_for_backward(t, s)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:2])
    grads = _backward_op(dy, *ctx.saved_tensors, ctx.sigma_data, needed)
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None, None, None)


_op.gradient(_gradient, _setup)
