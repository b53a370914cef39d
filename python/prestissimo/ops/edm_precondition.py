# SPDX-License-Identifier: Apache-2.0
"""The scaling of a diffusion network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_latent, expect_per_sample, launch, per_sample

if TYPE_CHECKING:
    from torch import Tensor


def edm_precondition(x: Any, sigma: Any, sigma_data: float = 0.5) -> Any:
    """y = c_in·x, c_in = 1/√(σ² + σ_d²): the network's input has variance 1 at every σ.

    Args:
        x: [B, ...], float32, bfloat16 or float16 (float64 runs through the reference).
        sigma: float32 [B], or one number for all samples.
        sigma_data: σ_d, the standard deviation of the data.

    Returns:
        Shape, dtype and kind (torch, NumPy, …) of x. Differentiable in x.

    Raises:
        ValueError: a sigma or sigma_data that does not fit, naming the argument.
        TypeError: a dtype that no kernel takes.

    Source: Karras et al. (arXiv 2206.00364), table 1.

    >>> import numpy as np
    >>> edm_precondition(np.ones((1, 2), np.float32), 1.2, sigma_data=0.5).round(4)
    array([[0.7692, 0.7692]], dtype=float32)
    """
    return _op(x, per_sample(x, sigma), sigma_data)


def reference(x: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `edm_precondition`."""
    sigma = sigma.reshape(-1, *[1] * (x.dim() - 1))
    return (x * (sigma**2 + sigma_data**2).rsqrt()).to(x.dtype)


def _check(x: Any, sigma: Any, sigma_data: float) -> None:
    expect_latent("edm_precondition", "x", x)
    expect_per_sample("edm_precondition", "sigma", sigma, x)
    if not sigma_data > 0:
        raise ValueError(f"edm_precondition: sigma_data must be positive, got {sigma_data}")


def _kernel(x: Any, sigma: Any, sigma_data: float) -> Any:
    y = empty_like(x)
    launch(_core.edm_precondition, x, sigma, sigma_data, y)
    return y


_op = Op(
    "edm_precondition(Tensor x, Tensor sigma, float sigma_data) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *_: x.new_empty(x.shape),
    check=_check,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, sigma, ctx.sigma_data = inputs
    ctx.save_for_backward(sigma)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return _op(dy, *ctx.saved_tensors, ctx.sigma_data), None, None


_op.gradient(_gradient, _setup)
