# SPDX-License-Identifier: Apache-2.0
"""The residual stream plus a gated branch: the exit of every half of an AdaLN transformer block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_shape, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

TIME_BLOCK = 64  # kTimeBlock of csrc/ops/rows.h, where the size of `partial` is explained


def gated_residual(x: Any, branch: Any, gate: Any, gate_form: str = "plain") -> Any:
    """y = x + branch·g, with g = gate, or g = sigmoid(1 − gate).

    Args:
        x: [B, T, C], float32, bfloat16 or float16 (float64 runs through the reference).
        branch: [B, T, C], dtype of x; beside a float32 x also bfloat16 or float16.
        gate: [B, C], dtype of x.
        gate_form: "plain", or "sigmoid" for g = 1 / (1 + exp(gate − 1)), as in Stable Audio 3.

    Returns:
        [B, T, C], dtype and kind (torch, NumPy, …) of x. Differentiable in x, branch and gate.

    Raises:
        ValueError: a shape or gate_form that does not fit, naming the argument.
        TypeError: a dtype that does not fit.

    Source: DiT (Peebles and Xie, arXiv 2212.09748), adaLN-zero; Stable Audio 3 for the sigmoid.

    >>> import numpy as np
    >>> x, gate = np.ones((1, 1, 2), np.float32), np.array([[0.0, 3.0]], np.float32)
    >>> gated_residual(x, 2 * x, gate)
    array([[[1., 7.]]], dtype=float32)
    """
    return _op(x, branch, gate, gate_form)


def open_gate(gate: Tensor, gate_form: str) -> Tensor:
    """g, as [B, 1, C]."""
    return (gate if gate_form == "plain" else (1 - gate).sigmoid())[:, None]


def reference(x: Tensor, branch: Tensor, gate: Tensor, gate_form: str = "plain") -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `gated_residual`."""
    return x + branch * open_gate(gate, gate_form)


def check_residual(op: str, x: Any, branch: Any, gate: Any, gate_form: str) -> None:
    if len(x.shape) != 3:
        raise ValueError(f"{op}: x must have 3 dimensions, got shape {list(x.shape)}")
    B, T, C = x.shape
    expect_shape(op, "branch", branch, (B, T, C))
    expect_shape(op, "gate", gate, (B, C))
    narrow = str(x.dtype).endswith("float32") and str(branch.dtype).endswith(("bfloat16", "float16"))
    if branch.dtype != x.dtype and not narrow:
        raise TypeError(f"{op}: branch must be {x.dtype} like x, or 16 bits wide, got {branch.dtype}")
    if gate is not None and gate.dtype != x.dtype:
        raise TypeError(f"{op}: gate must be {x.dtype} like x, got {gate.dtype}")
    if gate_form not in ("plain", "sigmoid"):
        raise ValueError(f"{op}: gate_form must be 'plain' or 'sigmoid', got '{gate_form}'")


def _check(x: Any, branch: Any, gate: Any, gate_form: str) -> None:
    check_residual("gated_residual", x, branch, gate, gate_form)


def _kernel(x: Any, branch: Any, gate: Any, gate_form: str) -> Any:
    y = empty_like(x)
    launch(_core.gated_residual, x, branch, gate, gate_form, y)
    return y


_op = Op(
    "gated_residual(Tensor x, Tensor branch, Tensor gate, str gate_form) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *_: x.new_empty(x.shape),
    check=_check,
)


# ---- backward: gradients that nobody wants come back as empty arrays; dx is dy itself


def backward_reference(
    dy: Tensor, branch: Tensor, gate: Tensor, gate_form: str, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """The closed form in csrc/ops/gated_residual.h, in plain PyTorch, in at least float32."""
    import torch

    wide = torch.promote_types(dy.dtype, torch.float32)
    g = open_gate(gate.to(wide), gate_form)
    slope = 1 if gate_form == "plain" else -g * (1 - g)
    dbranch = dy.to(wide) * g
    dgate = (dy.to(wide) * branch.to(wide) * slope).sum(1)
    return (
        dbranch.to(branch.dtype) if wanted[0] else branch.new_empty(0),
        dgate.to(gate.dtype) if wanted[1] else gate.new_empty(0),
    )


def _backward_kernel(dy: Any, branch: Any, gate: Any, gate_form: str, wanted: list[bool]) -> tuple[Any, Any]:
    B, T, C = dy.shape
    dbranch = empty_like(branch) if wanted[0] else None
    dgate = new_empty(gate, (B, C)) if wanted[1] else None
    partial = new_empty(dy, (B * -(-T // TIME_BLOCK) * C if wanted[1] else 0,), "float32")
    launch(_core.gated_residual_backward, dy, branch, gate, gate_form, partial, dbranch, dgate)
    return (
        new_empty(branch, (0,)) if dbranch is None else dbranch,
        new_empty(gate, (0,)) if dgate is None else dgate,
    )


def _backward_fake(
    dy: Any, branch: Any, gate: Any, gate_form: str, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    return (
        branch.new_empty(branch.shape if wanted[0] else 0),
        gate.new_empty(gate.shape if wanted[1] else 0),
    )


_backward_op = Op(
    "gated_residual_backward(Tensor dy, Tensor branch, Tensor gate, str gate_form, bool[] wanted)"
    " -> (Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, branch, gate, ctx.gate_form = inputs
    ctx.save_for_backward(branch, gate)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:3]
    grads = (None, None)
    if needed[1] or needed[2]:
        grads = _backward_op(dy, *ctx.saved_tensors, ctx.gate_form, list(needed[1:]))
    return (
        dy if needed[0] else None,
        *(g if n else None for g, n in zip(grads, needed[1:], strict=True)),
        None,
    )


_op.gradient(_gradient, _setup)
