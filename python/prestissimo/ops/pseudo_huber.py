# SPDX-License-Identifier: Apache-2.0
"""The loss of consistency distillation: quadratic near zero, a norm far from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .dmd_gradient import sum_blocks
from .registration import Op, _core, empty_like, expect_latent, expect_like, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor


def pseudo_huber(x: Any, y: Any, c: float) -> Any:
    """loss = √(‖x − y‖² + c²) − c for each sample, the norm over all its elements.

    Args:
        x: [B, ...], float32, bfloat16 or float16 (float64 runs through the reference).
        y: like x.
        c: at least 0, in the units of the norm: 0.00054·√(elements of a sample) is usual.

    Returns:
        [B], float32 (float64 for float64): sums are taken in at least float32. Differentiable in x and y.

    Raises:
        ValueError: a shape or c that does not fit, naming the argument.
        TypeError: dtypes that differ from x's, or that no kernel takes.

    Source: Song and Dhariwal, "Improved techniques for training consistency models" (arXiv 2310.14189), section 3.3.

    >>> import numpy as np
    >>> pseudo_huber(np.float32([[3.0, 4.0], [1.0, 1.0]]), np.float32([[0.0, 0.0], [1.0, 1.0]]), c=12.0)
    array([1., 0.], dtype=float32)
    """
    return _op(x, y, c)


def reference(x: Tensor, y: Tensor, c: float) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `pseudo_huber`."""
    import torch

    wide = torch.promote_types(x.dtype, torch.float32)
    return ((x - y).to(wide).square().flatten(1).sum(dim=1) + c * c).sqrt() - c


def _check(x: Any, y: Any, c: float) -> None:
    expect_latent("pseudo_huber", "x", x)
    expect_like("pseudo_huber", "y", y, x)
    if not c >= 0:
        raise ValueError(f"pseudo_huber: c must be at least 0, got {c}")


def _kernel(x: Any, y: Any, c: float) -> Any:
    loss = new_empty(x, (x.shape[0],), "float32")
    launch(_core.pseudo_huber, x, y, c, new_empty(x, (sum_blocks(x),), "float32"), loss)
    return loss


def _fake(x: Any, y: Any, c: float) -> Any:
    import torch

    return x.new_empty(x.shape[:1], dtype=torch.promote_types(x.dtype, torch.float32))


_op = Op(
    "pseudo_huber(Tensor x, Tensor y, float c) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
)


# ---- backward: a gradient that nobody wants comes back as an empty array


def backward_reference(
    x: Tensor, y: Tensor, dloss: Tensor, loss: Tensor, c: float, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """dx = dloss·(x − y)/(loss + c), dy = −dx."""
    factor = (dloss / (loss + c)).reshape(-1, *[1] * (x.dim() - 1))
    dx = (factor * (x - y)).to(x.dtype)
    return dx if wanted[0] else x.new_empty(0), -dx if wanted[1] else x.new_empty(0)


def _backward_kernel(x: Any, y: Any, dloss: Any, loss: Any, c: float, wanted: list[bool]) -> tuple[Any, Any]:
    dx, dy = (empty_like(x) if want else None for want in wanted)
    launch(_core.pseudo_huber_backward, dloss, loss, x, y, c, dx, dy)
    return tuple(new_empty(x, (0,)) if d is None else d for d in (dx, dy))  # type: ignore[return-value]


_backward_op = Op(
    "pseudo_huber_backward(Tensor x, Tensor y, Tensor dloss, Tensor loss, float c, bool[] wanted)"
    " -> (Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda x, *args: tuple(x.new_empty(x.shape if want else 0) for want in args[-1]),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, y, ctx.c = inputs
    ctx.save_for_backward(x, y, output)


def _gradient(ctx: Any, dloss: Tensor) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:2])
    x, y, loss = ctx.saved_tensors
    grads = _backward_op(x, y, dloss, loss, ctx.c, needed)
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None)


_op.gradient(_gradient, _setup)
