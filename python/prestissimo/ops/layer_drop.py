# SPDX-License-Identifier: Apache-2.0
"""Where layers are dropped: every sample hands its last block the hidden state that its budget of blocks has made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor


def layer_drop(hidden: Sequence[Any], budget: Any, target_variance: Any = None) -> tuple[Any, Any]:
    """out[b] = hidden[budget[b] − 1][b], what the last block of sample b reads; and its variance.

    A network of L blocks with a budget of n runs blocks 1 … n − 1 and then block L, which is never dropped.

    Args:
        hidden: L arrays [B, T, C], hidden[l] being what enters block l + 1; float32, bfloat16 or float16 (float64 runs
            through the reference). At most 64. None of them is copied but for the part that is handed on.
        budget: int64 [B], blocks that each sample runs, 1 … L. With L, out[b] is hidden[L − 1][b] bit for bit.
        target_variance: float32 [B], that of full depth; then out[b] is multiplied by √(target / variance) where
            budget[b] < L.

    Returns:
        (out, variance): [B, T, C] in the dtype of hidden, and float32 [B], as `hidden_variance` of what is handed on
        before it is multiplied. Both differentiable in hidden; the targets are constants.

    Raises:
        ValueError: a shape or budget that does not fit, naming the argument. A budget on a GPU is brought into range
            instead.
        TypeError: a dtype that does not fit.

    Source: Presto (Novack et al., arXiv 2410.05167), layer dropping that preserves variance.

    >>> import numpy as np
    >>> hidden = [np.full((2, 1, 2), l, np.float32) + [[[0, 1]]] for l in range(3)]
    >>> out, variance = layer_drop([h.astype(np.float32) for h in hidden], np.array([3, 1]))
    >>> out.tolist(), variance.tolist()
    ([[[2.0, 3.0]], [[0.0, 1.0]]], [0.25, 0.25])
    """
    return _op(list(hidden), budget, target_variance)[:2]


def reference(
    hidden: Sequence[Tensor], budget: Tensor, target_variance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: oracle, baseline and documentation of `layer_drop`."""
    return _reference(hidden, budget, target_variance)[:2]


def _reference(
    hidden: Sequence[Tensor], budget: Tensor, target_variance: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(out, variance, statistics)"""
    import torch

    budget = budget.clamp(1, len(hidden))  # on a GPU nobody has looked at it
    h = torch.stack(list(hidden))[budget - 1, torch.arange(len(budget), device=budget.device)]
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    mean = wide.mean((1, 2))
    variance = (wide - mean[:, None, None]).square().mean((1, 2))
    scale, slope, out = torch.ones_like(mean), torch.zeros_like(mean), h.clone()
    if target_variance is not None:
        scaled = (budget < len(hidden)) & (variance > 0)
        safe = torch.where(scaled, variance, 1)
        scale = torch.where(scaled, (target_variance.to(wide.dtype) / safe).sqrt(), 1)
        slope = torch.where(scaled, -0.5 * scale / safe, 0)
        out = torch.where(scaled[:, None, None], (wide * scale[:, None, None]).to(h.dtype), h)
    return out, variance, torch.stack([mean, scale, slope], dim=1).detach()


def _check(hidden: Sequence[Any], budget: Any, target_variance: Any) -> None:
    op = "layer_drop"
    if not 1 <= len(hidden) <= 64:
        raise ValueError(f"{op}: hidden must have 1 to 64 elements, got {len(hidden)}")
    first = hidden[0]
    if len(first.shape) != 3:
        raise ValueError(f"{op}: hidden[0] must have 3 dimensions, got shape {list(first.shape)}")
    for i, h in enumerate(hidden):
        if tuple(h.shape) != tuple(first.shape):
            raise ValueError(f"{op}: hidden[{i}] must be {list(first.shape)}, got {list(h.shape)}")
        if h.dtype != first.dtype:
            raise TypeError(f"{op}: hidden[{i}] must be {first.dtype} like hidden[0], got {h.dtype}")
    B = first.shape[0]
    wide = "float64" if str(first.dtype).endswith("float64") else "float32"
    for name, a, kind in (("budget", budget, "int64"), ("target_variance", target_variance, wide)):
        if a is None:
            continue
        if tuple(a.shape) != (B,):
            raise ValueError(f"{op}: {name} must be [{B}], got {list(a.shape)}")
        if not str(a.dtype).endswith(kind):
            raise TypeError(f"{op}: {name} must be {kind}, got {a.dtype}")


def _check_values(hidden: Sequence[Any], budget: Any, target_variance: Any) -> None:
    import torch

    _check(hidden, budget, target_variance)
    if type(budget) is not torch.Tensor or budget.device.type != "cpu":  # reading it would wait for a GPU
        return
    if out := [n for n in budget.tolist() if not 1 <= n <= len(hidden)]:
        raise ValueError(f"layer_drop: budget must be from 1 to {len(hidden)}, got {out[0]}")


def _kernel(hidden: Sequence[Any], budget: Any, target_variance: Any) -> tuple[Any, Any, Any]:
    if not hidden:
        raise ValueError("layer_drop: hidden must have 1 to 64 elements, got 0")
    x = hidden[0]
    B, T = (*x.shape, 0, 0)[:2]
    out = new_empty(x, x.shape)
    variance, statistics = new_empty(x, (B,), "float32"), new_empty(x, (B, 3), "float32")
    partial = new_empty(x, (B, T, 2), "float32")
    launch(_core.layer_drop, list(hidden), budget, target_variance, partial, out, variance, statistics)
    return out, variance, statistics


def _fake(hidden: Sequence[Tensor], budget: Tensor, target_variance: Tensor | None) -> tuple[Tensor, ...]:
    import torch

    x = hidden[0]
    wide = torch.promote_types(x.dtype, torch.float32)
    B = x.shape[0]
    return x.new_empty(x.shape), x.new_empty((B,), dtype=wide), x.new_empty((B, 3), dtype=wide)


_op = Op(
    "layer_drop(Tensor[] hidden, Tensor budget, Tensor? target_variance) -> (Tensor, Tensor, Tensor)",
    kernel=_kernel,
    reference=_reference,
    fake=_fake,
    check=_check_values,
)


# ---- backward


def backward_reference(
    hidden: Sequence[Tensor], budget: Tensor, dout: Tensor, dvariance: Tensor, statistics: Tensor
) -> list[Tensor]:
    """The closed form in csrc/ops/layer_drop.h, in plain PyTorch."""
    import torch

    wide = statistics.dtype
    mean, scale, slope = (s[:, None, None] for s in statistics.unbind(1))
    d = dout.to(wide)
    budget = budget.clamp(1, len(hidden))
    found = []
    for i, each in enumerate(hidden):
        h = each.to(wide)
        total = dvariance[:, None, None] + slope * (d * h).sum((1, 2), keepdim=True)
        dh = scale * d + (h - mean) * (2 * total / max(1, h.shape[1] * h.shape[2]))
        found.append(torch.where((budget == i + 1)[:, None, None], dh, 0).to(each.dtype))
    return found


def _backward_kernel(
    hidden: Sequence[Any], budget: Any, dout: Any, dvariance: Any, statistics: Any
) -> list[Any]:
    B, T, _ = dout.shape
    dhidden = [new_empty(h, h.shape) for h in hidden]
    partial = new_empty(dout, (B * T + B,), "float32")
    launch(_core.layer_drop_backward, list(hidden), budget, dout, dvariance, statistics, partial, dhidden)
    return dhidden


_backward_op = Op(
    "layer_drop_backward(Tensor[] hidden, Tensor budget, Tensor dout, Tensor dvariance, Tensor statistics)"
    " -> Tensor[]",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda hidden, *_: [h.new_empty(h.shape) for h in hidden],
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    hidden, budget, _ = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(budget, output[2], *hidden)


def _gradient(ctx: Any, dout: Tensor, dvariance: Tensor, _: Tensor) -> tuple[Any, ...]:
    """Where the budgets can be read, layers that no sample left at get one zero, expanded, and no pass over memory."""
    import torch

    budget, statistics, *hidden = ctx.saved_tensors
    used = list(range(len(hidden)))
    if type(budget) is torch.Tensor and not budget.is_cuda and len(budget):  # a GPU is not waited for
        found, place = torch.unique(budget.clamp(1, len(hidden)), return_inverse=True)
        used, budget = [n - 1 for n in found.tolist()], place + 1
    grads = [h.new_zeros(()).expand(h.shape) for h in hidden]
    some = _backward_op([hidden[i] for i in used], budget, dout, dvariance, statistics)
    for i, g in zip(used, some, strict=True):
        grads[i] = g
    return grads, None, None


_op.gradient(_gradient, _setup)
