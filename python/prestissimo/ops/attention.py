# SPDX-License-Identifier: Apache-2.0
"""Softmax attention over heads: self and cross, padded keys, grouped heads, sliding window, differential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, expect_shape, launch, new_empty, scratch, torch

if TYPE_CHECKING:
    from torch import Tensor


def attention(
    q: Any,
    k: Any,
    v: Any,
    q2: Any = None,
    k2: Any = None,
    mask: Any = None,
    lengths: Any = None,
    window: Sequence[int] | None = None,
    scale: float | None = None,
) -> Any:
    """y = softmax(scale·qkᵀ + mask)·v, minus softmax(scale·q2·k2ᵀ + mask)·v where q2 and k2 are given.

    Args:
        q: [B, T, H, D], float32, bfloat16 or float16 (float64 runs through the reference).
        k, v: [B, S, Hk, D]; query head h meets key head h // (H / Hk).
        q2, k2: as q and k, both or neither: differential attention, two softmaxes over the same values.
        mask: bool [B, S], True where there is a key; what stands at the other keys is never read as a number.
        lengths: int64 [B]: a sample's keys are its first lengths[b].
        window: (left, right): query i sees keys i − left ... i + right; −1 is no limit, None no window.
        scale: of the scores; 1/√D by default.

    Returns:
        [B, T, H, D], dtype and kind (torch, NumPy, …) of q; 0 for a query that sees no key. Differentiable in q, k,
        v, q2 and k2. Sums are float32; bfloat16 products keep weights as bfloat16 where the processor multiplies
        them. A NaN or infinity among the values of a key may reach queries whose window ends before it.

    Raises:
        ValueError: a shape, window or scale that does not fit, naming the argument.
        TypeError: dtypes that differ from q's, or that no kernel takes.

    Source: Vaswani et al., arXiv 1706.03762; the tiled form with its backward, Dao et al., arXiv 2205.14135;
    differential, Ye et al., arXiv 2410.05258, in the unweighted form of Stable Audio 3.

    >>> import numpy as np
    >>> q, k = np.zeros((1, 1, 1, 2), np.float32), np.zeros((1, 3, 1, 2), np.float32)
    >>> v = np.array([1, 2, 3, 4, 50, 60], np.float32).reshape(1, 3, 1, 2)
    >>> attention(q, k, v, lengths=np.array([2])).ravel()
    array([2., 3.], dtype=float32)
    """
    window = [-1, -1] if window is None else list(window)
    arguments = (q, k, v, q2, k2, mask, lengths, window, scale)
    save = torch is not None and torch.is_grad_enabled() and any(map(_has_gradient, arguments[:5]))
    if getattr(q, "is_cuda", False) and _served_by_torch(*arguments):
        _check(*arguments)
        return scaled_dot_product(*arguments)
    return _op(*arguments, save)[0]


def _has_gradient(a: Any) -> bool:
    return isinstance(a, torch.Tensor) and a.requires_grad


def _served_by_torch(
    q: Any, k: Any, v: Any, q2: Any, k2: Any, mask: Any, lengths: Any, window: Sequence[int], scale: Any
) -> bool:
    """Of tensors on a GPU: what torch has fast kernels for, and what ours does not take.

    Ours is for bfloat16 and float16 where torch would make a mask of [B, T, S] or take two passes.
    """
    if not isinstance(q, torch.Tensor):
        return False
    plain = q2 is None and mask is None and lengths is None and tuple(window) == (-1, -1)
    return plain or q.dtype not in (torch.bfloat16, torch.float16) or q.shape[-1] > 128


def scaled_dot_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q2: Tensor | None = None,
    k2: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    window: Sequence[int] = (-1, -1),
    scale: float | None = None,
) -> Tensor:
    """The same by torch's own attention: what runs on a GPU where torch serves."""
    seen = allowed(q, k, mask, lengths, window)
    group = q.shape[2] // max(k.shape[2], 1)
    values = _head_first(v, group, seen)

    def once(q: Tensor, k: Tensor) -> Tensor:
        y = torch.nn.functional.scaled_dot_product_attention(
            _head_first(q), _head_first(k, group), values, attn_mask=seen, scale=_scale(scale, q.shape[-1])
        )
        return (y if seen is None else y.masked_fill(~seen.any(-1, keepdim=True), 0)).transpose(1, 2)

    return once(q, k) if q2 is None or k2 is None else once(q, k) - once(q2, k2)


def allowed(
    q: Tensor, k: Tensor, mask: Tensor | None, lengths: Tensor | None, window: Sequence[int]
) -> Tensor | None:
    """bool [B or 1, 1, T or 1, S]: which query sees which key; None where each sees all."""
    T, S = q.shape[1], k.shape[1]
    seen = None if mask is None else mask[:, None, None, :]
    j = torch.arange(S, device=q.device)
    if lengths is not None:
        in_length = (j < lengths[:, None])[:, None, None, :]
        seen = in_length if seen is None else seen & in_length
    left, right = window
    if left >= 0 or right >= 0:
        offset = j - torch.arange(T, device=q.device)[:, None]
        near = (offset >= (-left if left >= 0 else -T)) & (offset <= (right if right >= 0 else S))
        seen = near[None, None] if seen is None else seen & near
    return seen


def _weights(q: Tensor, k: Tensor, seen: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """softmax(scale·qkᵀ) (B, H, T, S), 0 where a query sees no key, and the scores below it; q, k head first."""
    scores = q @ k.mT * _scale(scale, q.shape[-1])
    if seen is None:
        return scores.softmax(-1), scores
    scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1).masked_fill(~seen.any(-1, keepdim=True), 0), scores


def _head_first(x: Tensor, repeat: int = 1, seen: Tensor | None = None) -> Tensor:
    """(B, S, H, D) to (B, H·repeat, S, D), with zeros for keys that no query sees."""
    x = x.transpose(1, 2)
    x = x if repeat == 1 else x.repeat_interleave(repeat, 1)
    return x if seen is None else x.masked_fill(~seen.any(-2)[..., None], 0)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q2: Tensor | None = None,
    k2: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    window: Sequence[int] = (-1, -1),
    scale: float | None = None,
) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `attention`."""
    return _reference(q, k, v, q2, k2, mask, lengths, window, scale, False)[0]


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q2: Tensor | None,
    k2: Tensor | None,
    mask: Tensor | None,
    lengths: Tensor | None,
    window: Sequence[int],
    scale: float | None,
    save: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    seen = allowed(q, k, mask, lengths, window)
    group = q.shape[2] // max(k.shape[2], 1)
    values = _head_first(v, group, seen)
    ys, lses = [], []
    for q_, k_ in ((q, k), (q2, k2)):
        if q_ is None or k_ is None:
            continue
        weights, scores = _weights(_head_first(q_), _head_first(k_, group), seen, scale)
        ys.append((weights @ values).transpose(1, 2).contiguous())
        if save:
            wide = scores.to(torch.promote_types(q.dtype, torch.float32)).logsumexp(-1)
            lses.append(wide if seen is None else wide.masked_fill(~seen.any(-1), torch.inf))
    y = ys[0] if q2 is None else ys[0] - ys[1]
    none = q.new_empty(0)
    lse = torch.stack(lses) if save else none.to(torch.promote_types(q.dtype, torch.float32))
    return y, lse, ys[1] if save and q2 is not None else none


def _check(
    q: Any,
    k: Any,
    v: Any,
    q2: Any = None,
    k2: Any = None,
    mask: Any = None,
    lengths: Any = None,
    window: Sequence[int] = (-1, -1),
    scale: float | None = None,
    save: bool = True,
    op: str = "attention",
) -> None:
    for name, a in (("q", q), ("k", k)):
        if len(a.shape) != 4:
            raise ValueError(f"{op}: {name} must have 4 dimensions, got shape {list(a.shape)}")
    B, T, H, D = q.shape
    S, Hk = k.shape[1:3]
    expect_shape(op, "k", k, (B, S, Hk, D))
    if H % Hk if Hk else H:
        raise ValueError(
            f"{op}: k must have a number of heads that divides q's {H}, got shape {list(k.shape)}"
        )
    expect_shape(op, "v", v, (B, S, Hk, D))
    expect_shape(op, "q2", q2, (B, T, H, D))
    expect_shape(op, "k2", k2, (B, S, Hk, D))
    expect_shape(op, "mask", mask, (B, S))
    expect_shape(op, "lengths", lengths, (B,))
    for name, a in (("k", k), ("v", v), ("q2", q2), ("k2", k2)):
        if a is not None and a.dtype != q.dtype:
            raise TypeError(f"{op}: {name} must be {q.dtype} like q, got {a.dtype}")
    for name, a, dtype in (("mask", mask, "bool"), ("lengths", lengths, "int64")):
        if a is not None and str(a.dtype).removeprefix("torch.") != dtype:
            raise TypeError(f"{op}: {name} must be {dtype}, got {a.dtype}")
    if (q2 is None) != (k2 is None):
        name, other = ("q2", "k2") if q2 is None else ("k2", "q2")
        raise ValueError(f"{op}: {name} must be given where {other} is")
    _check_numbers(window, scale, op)


def _check_numbers(window: Sequence[int], scale: float | None, op: str) -> None:
    if len(window) != 2 or min(window) < -1:
        raise ValueError(f"{op}: window must be two numbers of at least -1 (no limit), got {list(window)}")
    if scale is not None and not 0 < scale < float("inf"):
        raise ValueError(f"{op}: scale must be positive and finite, got {scale}")


def _scale(scale: float | None, D: int) -> float:
    return max(D, 1) ** -0.5 if scale is None else scale


def _kernel(
    q: Any,
    k: Any,
    v: Any,
    q2: Any,
    k2: Any,
    mask: Any,
    lengths: Any,
    window: Sequence[int],
    scale: float | None,
    save: bool = True,
) -> tuple[Any, Any, Any]:
    if len(window) != 2:
        _check_numbers(window, scale, "attention")
    y, lse, y2 = _outputs(new_empty, q, q2, save)
    arguments = (q, k, v, q2, k2, mask, lengths, *window, _scale(scale, q.shape[-1]))
    launch(_core.attention, *arguments, y, y2 if save and q2 is not None else None, lse if save else None)
    return y, lse, y2


def _outputs(new: Any, q: Any, q2: Any, save: bool) -> tuple[Any, Any, Any]:
    """y; and for the backward the log-sum-exp of each softmax, and the second softmax's part of y."""
    if not save or len(q.shape) != 4:
        return new(q, q.shape), new(q, (0,), "float32"), new(q, (0,))
    B, T, H, _ = q.shape
    differential = q2 is not None
    return (
        new(q, q.shape),
        new(q, (1 + differential, B, H, T), "float32"),
        new(q, q.shape if differential else (0,)),
    )


def _fake(
    q: Any,
    k: Any,
    v: Any,
    q2: Any,
    k2: Any,
    mask: Any,
    lengths: Any,
    window: Any,
    scale: Any,
    save: Any = True,
) -> Any:
    def new(like: Any, shape: Any, dtype: str | None = None) -> Any:
        wide = torch.promote_types(like.dtype, torch.float32)  # of the log-sum-exp
        return like.new_empty(shape, dtype=wide if dtype else None)

    return _outputs(new, q, q2, save)


_op = Op(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? q2, Tensor? k2, Tensor? mask, Tensor? lengths, int[] window,"
    " float? scale, bool save=True) -> (Tensor, Tensor, Tensor)",
    kernel=_kernel,
    reference=_reference,
    fake=_fake,
    check=_check,
)


# ---- backward: recomputes the weights from the log-sum-exp


def _softmax_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of one softmax; everything head first."""
    p = _weights(q, k, seen, scale)[0]
    dp = dy @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * _scale(scale, q.shape[-1])
    return ds @ k, ds.mT @ q, p.mT @ dy


def backward_reference(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q2: Tensor | None,
    k2: Tensor | None,
    mask: Tensor | None,
    lengths: Tensor | None,
    window: Sequence[int],
    scale: float | None,
    y: Tensor,
    lse: Tensor,
    y2: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The closed form in csrc/ops/attention.h, in plain PyTorch, in at least float32."""
    wide = torch.promote_types(q.dtype, torch.float32)
    seen = allowed(q, k, mask, lengths, window)
    group = q.shape[2] // max(k.shape[2], 1)

    def back(gradient: Tensor, like: Tensor) -> Tensor:
        """To the layout of `like`, summed over the query heads of each of its heads."""
        heads_apart = gradient.unflatten(1, (like.shape[2], gradient.shape[1] // max(like.shape[2], 1)))
        return heads_apart.sum(2).transpose(1, 2).to(like.dtype).contiguous()

    dy_, values = _head_first(dy.to(wide)), _head_first(v.to(wide), group, seen)
    gradients = [
        _softmax_backward(
            sign * dy_, _head_first(q_.to(wide)), _head_first(k_.to(wide), group, seen), values, seen, scale
        )
        for sign, q_, k_ in ((1, q, k), (-1, q2, k2))
        if q_ is not None and k_ is not None
    ]
    dq, dk, dv = gradients[0]
    if q2 is None or k2 is None:
        none = q.new_empty(0)
        return back(dq, q), back(dk, k), back(dv, v), none, none
    dq2, dk2, dv2 = gradients[1]
    return back(dq, q), back(dk, k), back(dv + dv2, v), back(dq2, q2), back(dk2, k2)


def _backward_kernel(
    dy: Any,
    q: Any,
    k: Any,
    v: Any,
    q2: Any,
    k2: Any,
    mask: Any,
    lengths: Any,
    window: Sequence[int],
    scale: float | None,
    y: Any,
    lse: Any,
    y2: Any,
) -> tuple[Any, ...]:
    out = [new_empty(a, a.shape) for a in (q, k, v)]
    out2 = [None if a is None else new_empty(a, a.shape) for a in (q2, k2)]
    arguments = (dy, q, k, v, q2, k2, mask, lengths, *window, _scale(scale, q.shape[-1]), lse)
    launch(_core.attention_backward, *arguments, *out, *out2, scratch(q, (2, *lse.shape), "float32"))
    return (*out, *(new_empty(q, (0,)) if a is None else a for a in out2))


_backward_op = Op(
    "attention_backward(Tensor dy, Tensor q, Tensor k, Tensor v, Tensor? q2, Tensor? k2, Tensor? mask,"
    " Tensor? lengths, int[] window, float? scale, Tensor y, Tensor lse, Tensor y2)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dy, *a: tuple(dy.new_empty(0 if x is None else x.shape) for x in a[:5]),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, (ctx.window, ctx.scale, *save) = inputs[:7], inputs[7:]
    ctx.saved = not save or save[0]  # the dispatcher leaves out a last argument that has its default
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _gradient(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if not ctx.saved:
        raise RuntimeError("attention: save must be True where gradients are wanted")
    needed = ctx.needs_input_grad[:-1]
    if dy is None:
        return (None,) * len(needed)
    *inputs, y, lse, y2 = ctx.saved_tensors
    grads = _backward_op(dy, *inputs, ctx.window, ctx.scale, y, lse, y2)
    return (*(g if n else None for g, n in zip(grads, needed, strict=False)), *(None for _ in needed[5:]))


_op.gradient(_gradient, _setup)
