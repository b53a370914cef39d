# SPDX-License-Identifier: Apache-2.0
"""From a network's output to the estimate of the clean latent, by EDM's preconditioning."""

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


def edm_denoise(x: Any, prediction: Any, sigma: Any, sigma_data: float = 0.5) -> Any:
    """D = c_skip·x + c_out·F, c_skip = σ_d²/(σ² + σ_d²), c_out = σσ_d/√(σ² + σ_d²).

    Args:
        x: the noisy latent [B, ...], float32, bfloat16 or float16 (float64 runs through the reference).
        prediction: F, the network's output, like x.
        sigma: float32 [B], or one number for all samples.
        sigma_data: σ_d, the standard deviation of the data.

    Returns:
        D, the estimate of the clean latent: shape, dtype and kind (torch, NumPy, …) of x. Differentiable in x
        and prediction.

    Raises:
        ValueError: a shape or sigma_data that does not fit, naming the argument.
        TypeError: dtypes that differ from x's, or that no kernel takes.

    Source: Karras et al. (arXiv 2206.00364), equation 7 and table 1.

    >>> import numpy as np
    >>> edm_denoise(np.float32([[1.0, 2.0]]), np.float32([[3.0, 4.0]]), 0.5, sigma_data=0.5).round(4)
    array([[1.5607, 2.4142]], dtype=float32)
    """
    return _op(x, prediction, per_sample(x, sigma), sigma_data)


def scalings(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """c_skip and c_out, of the shape of sigma."""
    variance = sigma**2 + sigma_data**2
    return sigma_data**2 / variance, sigma * sigma_data * variance.rsqrt()


def reference(x: Tensor, prediction: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `edm_denoise`."""
    c_skip, c_out = scalings(sigma.reshape(-1, *[1] * (x.dim() - 1)), sigma_data)
    return (c_skip * x + c_out * prediction).to(x.dtype)


def _check(x: Any, prediction: Any, sigma: Any, sigma_data: float) -> None:
    expect_latent("edm_denoise", "x", x)
    expect_like("edm_denoise", "prediction", prediction, x)
    expect_per_sample("edm_denoise", "sigma", sigma, x)
    if not sigma_data > 0:
        raise ValueError(f"edm_denoise: sigma_data must be positive, got {sigma_data}")


def _kernel(x: Any, prediction: Any, sigma: Any, sigma_data: float) -> Any:
    y = empty_like(x)
    launch(_core.edm_denoise, x, prediction, sigma, sigma_data, y)
    return y


_op = Op(
    "edm_denoise(Tensor x, Tensor prediction, Tensor sigma, float sigma_data) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *_: x.new_empty(x.shape),
    check=_check,
)


# ---- backward: a gradient that nobody wants comes back as an empty array


def backward_reference(
    dy: Tensor, sigma: Tensor, sigma_data: float, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """dx = c_skip·dy, dprediction = c_out·dy."""
    weights = scalings(sigma.reshape(-1, *[1] * (dy.dim() - 1)), sigma_data)
    dx, df = (
        (w * dy).to(dy.dtype) if want else dy.new_empty(0) for w, want in zip(weights, wanted, strict=True)
    )
    return dx, df


def _backward_kernel(dy: Any, sigma: Any, sigma_data: float, wanted: list[bool]) -> tuple[Any, Any]:
    dx, df = (empty_like(dy) if want else None for want in wanted)
    launch(_core.edm_denoise_backward, dy, sigma, sigma_data, dx, df)
    return tuple(new_empty(dy, (0,)) if d is None else d for d in (dx, df))  # type: ignore[return-value]


_backward_op = Op(
    "edm_denoise_backward(Tensor dy, Tensor sigma, float sigma_data, bool[] wanted) -> (Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dy, sigma, sigma_data, wanted: tuple(dy.new_empty(dy.shape if w else 0) for w in wanted),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *_, sigma, ctx.sigma_data = inputs
    ctx.save_for_backward(sigma)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:2])
    grads = _backward_op(dy, *ctx.saved_tensors, ctx.sigma_data, needed)
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None, None)


_op.gradient(_gradient, _setup)
