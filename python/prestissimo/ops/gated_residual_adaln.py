# SPDX-License-Identifier: Apache-2.0
"""Exit of one half of a transformer block and entry of the next: add the gated branch, then normalise and modulate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .adaln_modulate import backward_reference as adaln_backward_reference
from .adaln_modulate import check as check_adaln
from .adaln_modulate import partial_size as adaln_partial_size
from .adaln_modulate import reference as adaln_reference
from .gated_residual import TIME_BLOCK, check_residual, open_gate
from .gated_residual import reference as residual_reference
from .registration import Op, _core, empty_like, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor


def gated_residual_adaln(
    x: Any,
    branch: Any,
    gate: Any = None,
    shift: Any = None,
    scale: Any = None,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-6,
    norm: str = "layer",
    gate_form: str = "plain",
) -> tuple[Any, Any]:
    """r = x + branch·g; y = (norm(r)·weight + bias)·(1 + scale) + shift, in one read of x and branch.

    Args:
        x: [B, T, C], float32, bfloat16 or float16 (float64 runs through the reference).
        branch: [B, T, C], dtype of x; beside a float32 x also bfloat16 or float16.
        gate, gate_form: as in `gated_residual`; without a gate g = 1.
        shift, scale, weight, bias, eps, norm: as in `adaln_modulate`, dtype of x.

    Returns:
        (r, y), both [B, T, C]: r in the dtype of x, y in that of branch, which is what the next product reads.
        Differentiable in x, branch, gate, shift, scale, weight and bias. Equal to `adaln_modulate` of
        `gated_residual` up to rounding.

    Raises:
        ValueError: a shape, eps, norm or gate_form that does not fit, naming the argument.
        TypeError: a dtype that does not fit.

    Source: DiT (Peebles and Xie, arXiv 2212.09748), adaLN-zero.

    >>> import numpy as np
    >>> x = np.array([[[1.0, 2.0, 3.0]]], np.float32)
    >>> r, y = gated_residual_adaln(x, x, np.full((1, 3), 0.5, np.float32), eps=0.0)
    >>> r, y.round(3)
    (array([[[1.5, 3. , 4.5]]], dtype=float32), array([[[-1.225,  0.   ,  1.225]]], dtype=float32))
    """
    return _op(x, branch, gate, shift, scale, weight, bias, eps, norm, gate_form)


def reference(
    x: Tensor,
    branch: Tensor,
    gate: Tensor | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
    norm: str = "layer",
    gate_form: str = "plain",
) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: oracle, baseline and documentation of `gated_residual_adaln`."""
    r = x + branch if gate is None else residual_reference(x, branch, gate, gate_form)
    return r, adaln_reference(r, shift, scale, weight, bias, eps, norm).to(branch.dtype)


def _check(
    x: Any,
    branch: Any,
    gate: Any,
    shift: Any,
    scale: Any,
    weight: Any,
    bias: Any,
    eps: float,
    norm: str,
    gate_form: str,
) -> None:
    op = "gated_residual_adaln"
    check_residual(op, x, branch, gate, gate_form)
    check_adaln(x, shift, scale, weight, bias, eps, norm, op)


def _kernel(x: Any, branch: Any, *rest: Any) -> tuple[Any, Any]:
    r, y = empty_like(x), empty_like(branch)
    launch(_core.gated_residual_adaln, x, branch, *rest, r, y)
    return r, y


_op = Op(
    "gated_residual_adaln(Tensor x, Tensor branch, Tensor? gate, Tensor? shift, Tensor? scale, Tensor? weight,"
    " Tensor? bias, float eps, str norm, str gate_form) -> (Tensor, Tensor)",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, branch, *_: (x.new_empty(x.shape), branch.new_empty(branch.shape)),
    check=_check,
)


# ---- backward: gradients that nobody wants come back as empty arrays


def backward_reference(
    dr: Tensor,
    dy: Tensor,
    r: Tensor,
    branch: Tensor,
    gate: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    norm: str,
    gate_form: str,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """The closed form in csrc/ops/gated_residual_adaln.h, in plain PyTorch, in at least float32."""
    import torch

    wide = torch.promote_types(r.dtype, torch.float32)
    wider = lambda v: None if v is None else v.to(wide)  # noqa: E731
    d, *sums = adaln_backward_reference(
        dy.to(wide), r.to(wide), wider(shift), wider(scale), wider(weight), wider(bias), eps, norm, wanted[2:]
    )
    d = d + dr.to(wide)
    g = None if gate is None else open_gate(gate.to(wide), gate_form)
    none = r.new_empty(0)
    dbranch = (d if g is None else d * g).to(branch.dtype) if wanted[0] else branch.new_empty(0)
    dgate = none
    if g is not None and wanted[1]:
        slope = 1 if gate_form == "plain" else -g * (1 - g)
        dgate = (d * branch.to(wide) * slope).sum(1).to(r.dtype)
    return (d.to(r.dtype), dbranch, dgate, *(s.to(r.dtype) for s in sums))


def _outputs(r: Any, branch: Any, vectors: tuple[Any, ...], wanted: list[bool]) -> list[Any]:
    """dbranch and the gradients of gate, shift, scale, weight and bias; None where nobody wants them."""
    return [
        new_empty(like, v.shape) if v is not None and want else None
        for like, v, want in zip((branch, *[r] * 5), (branch, *vectors), wanted, strict=True)
    ]


def _filled(r: Any, branch: Any, outputs: list[Any]) -> list[Any]:
    return [new_empty(branch if i == 0 else r, (0,)) if o is None else o for i, o in enumerate(outputs)]


def _backward_kernel(
    dr: Any,
    dy: Any,
    r: Any,
    branch: Any,
    gate: Any,
    shift: Any,
    scale: Any,
    weight: Any,
    bias: Any,
    eps: float,
    norm: str,
    gate_form: str,
    wanted: list[bool],
) -> tuple[Any, ...]:
    B, T, C = r.shape
    dx = empty_like(r)
    out = _outputs(r, branch, (gate, shift, scale, weight, bias), wanted)
    size = adaln_partial_size(r, out[2:]) + (0 if out[1] is None else B * -(-T // TIME_BLOCK) * C)
    partial = new_empty(r, (size,), "float32")
    vectors = (gate, shift, scale, weight, bias)
    launch(
        _core.gated_residual_adaln_backward,
        dr,
        dy,
        r,
        branch,
        *vectors,
        eps,
        norm,
        gate_form,
        partial,
        dx,
        *out,
    )
    return (dx, *_filled(r, branch, out))


def _backward_fake(dr: Any, dy: Any, r: Any, branch: Any, *rest: Any) -> tuple[Any, ...]:
    return (r.new_empty(r.shape), *_filled(r, branch, _outputs(r, branch, rest[:5], rest[-1])))


_backward_op = Op(
    "gated_residual_adaln_backward(Tensor dr, Tensor dy, Tensor r, Tensor branch, Tensor? gate, Tensor? shift,"
    " Tensor? scale, Tensor? weight, Tensor? bias, float eps, str norm, str gate_form, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, *tensors = inputs[:7]
    ctx.options = inputs[7:]
    ctx.save_for_backward(output[0], *tensors)


def _gradient(ctx: Any, dr: Tensor, dy: Tensor) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:7])
    grads = _backward_op(dr, dy, *ctx.saved_tensors, *ctx.options, needed[1:])
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None, None, None)


_op.gradient(_gradient, _setup)
