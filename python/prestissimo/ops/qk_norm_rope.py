# SPDX-License-Identifier: Apache-2.0
"""Normalise every head of queries and keys and rotate it by its position, straight from the packed QKV product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_shape, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

TIME_BLOCK = 64  # kTimeBlock of csrc/ops/rows.h; csrc/ops/qk_norm_rope.h explains the size of `partial`
NORMS = ("none", "layer", "rms", "dyt")
VECTORS = ("q_weight", "k_weight", "q_bias", "k_bias", "q_alpha", "k_alpha")


def qk_norm_rope(
    qkv: Any,
    cos: Any = None,
    sin: Any = None,
    q_weight: Any = None,
    k_weight: Any = None,
    q_bias: Any = None,
    k_bias: Any = None,
    q_alpha: Any = None,
    k_alpha: Any = None,
    *,
    k: Any = None,
    heads: int = 0,
    kv_heads: int = 0,
    norm: str = "rms",
    eps: float = 1e-6,
    pairing: str = "half",
) -> tuple[Any, Any]:
    """u = norm(x)·weight + bias for every head x; (a, b) ← (a cos − b sin, b cos + a sin) on its first r of D dims.

    Args:
        qkv: [B, T, (heads + 2·kv_heads)·D], queries, keys and values side by side (the caller slices the values), or
            the queries alone, [B, T, H, D]; float32, bfloat16 or float16 (float64 runs through the reference).
        cos, sin: [T, r/2], float32, as `prestissimo.nn.rope.rope_tables` makes them; without them nothing is rotated.
        q_weight, k_weight, q_bias, k_bias: [D]; each may be absent. All vectors have the dtype of qkv, or float32.
        q_alpha, k_alpha: [1], for norm "dyt" alone.
        k: [B, T, Hk, D] beside queries [B, T, H, D]; may be absent.
        heads, kv_heads: of a packed qkv; kv_heads is heads where it is 0.
        norm: "none", "layer" (mean removed), "rms", or "dyt": tanh(alpha·x).
        eps: added to the variance (layer) or the mean square (rms).
        pairing: "half": (a, b) = (u[i], u[r/2 + i]); "interleaved": (u[2i], u[2i + 1]).

    Returns:
        (q, k): [B, T, H, D] and [B, T, Hk, D] in the dtype of qkv; k is empty where queries came alone. Differentiable
        in qkv, k and the vectors; the statistics are computed again in the backward.

    Raises:
        ValueError: a shape, norm, eps or pairing that does not fit, naming the argument; on a GPU, heads of more than
            256 dims.
        TypeError: a dtype that does not fit.

    Source: RoFormer (Su et al., arXiv 2104.09864); query-key normalisation (Henry et al., arXiv 2010.04245); dynamic
    tanh (Zhu et al., arXiv 2503.10622).

    >>> import numpy as np
    >>> qkv = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
    >>> q, k = qk_norm_rope(qkv, np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32), heads=1, norm="none")
    >>> q, k
    (array([[[[-1.,  0.]]]], dtype=float32), array([[[[-3.,  2.]]]], dtype=float32))
    """
    if len(qkv.shape) == 3 and not kv_heads:
        kv_heads = heads
    vectors = (q_weight, k_weight, q_bias, k_bias, q_alpha, k_alpha)
    return _op(qkv, k, cos, sin, *vectors, heads, kv_heads, norm, eps, pairing)


def reference(
    qkv: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    q_bias: Tensor | None = None,
    k_bias: Tensor | None = None,
    q_alpha: Tensor | None = None,
    k_alpha: Tensor | None = None,
    *,
    k: Tensor | None = None,
    heads: int = 0,
    kv_heads: int = 0,
    norm: str = "rms",
    eps: float = 1e-6,
    pairing: str = "half",
) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: oracle, baseline and documentation of `qk_norm_rope`."""
    q, k = split(qkv, k, heads, kv_heads or heads)
    y = _head(q, cos, sin, q_weight, q_bias, q_alpha, norm, eps, pairing)
    return y, qkv.new_empty(0) if k is None else _head(
        k, cos, sin, k_weight, k_bias, k_alpha, norm, eps, pairing
    )


def split(qkv: Tensor, k: Tensor | None, heads: int, kv_heads: int) -> tuple[Tensor, Tensor | None]:
    """Queries and keys as [B, T, heads, D], views of a packed qkv."""
    if qkv.dim() == 4:
        return qkv, k
    D = qkv.shape[-1] // (heads + 2 * kv_heads)
    both = qkv[..., : (heads + kv_heads) * D].unflatten(-1, (heads + kv_heads, D))
    return both[:, :, :heads], both[:, :, heads:]


def _head(
    x: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor | None,
    norm: str,
    eps: float,
    pairing: str,
) -> Tensor:
    """Arithmetic in at least float32, the result in the dtype of x."""
    import torch
    import torch.nn.functional as F

    wide = torch.promote_types(x.dtype, torch.float32)
    weight = None if weight is None else weight.to(wide)
    u = x.to(wide)
    if norm == "layer":
        u = F.layer_norm(u, u.shape[-1:], weight, eps=eps)
    elif norm == "rms":
        u = F.rms_norm(u, u.shape[-1:], weight, eps)
    elif norm == "dyt":
        assert alpha is not None
        u = torch.tanh(alpha.to(wide) * u)
        u = u if weight is None else u * weight
    u = u if bias is None else u + bias.to(wide)
    if cos is None or sin is None:
        return u.to(x.dtype)
    half = cos.shape[-1]
    rotated, rest = u[..., : 2 * half], u[..., 2 * half :]
    a, b = (
        rotated.unflatten(-1, (2, half)).unbind(-2)
        if pairing == "half"
        else rotated.unflatten(-1, (half, 2)).unbind(-1)
    )
    c, s = cos[:, None].to(wide), sin[:, None].to(wide)
    pair = torch.stack([a * c - b * s, b * c + a * s], dim=-2 if pairing == "half" else -1)
    return torch.cat([pair.flatten(-2), rest], dim=-1).to(x.dtype)


def _check(
    qkv: Any,
    k: Any,
    cos: Any,
    sin: Any,
    q_weight: Any,
    k_weight: Any,
    q_bias: Any,
    k_bias: Any,
    q_alpha: Any,
    k_alpha: Any,
    heads: int,
    kv_heads: int,
    norm: str,
    eps: float,
    pairing: str,
) -> None:
    op = "qk_norm_rope"
    B, T, _, _, D = sizes(op, qkv, k, heads, kv_heads)
    if k is not None and (len(k.shape) != 4 or tuple(k.shape[:2]) != (B, T) or k.shape[3] != D):
        raise ValueError(f"{op}: k must be [{B}, {T}, heads, {D}], got {list(k.shape)}")
    if k is not None and k.dtype != qkv.dtype:
        raise TypeError(f"{op}: k must be {qkv.dtype} like qkv, got {k.dtype}")
    if norm not in NORMS:
        raise ValueError(f"{op}: norm must be one of {', '.join(NORMS)}, got '{norm}'")
    if pairing not in ("half", "interleaved"):
        raise ValueError(f"{op}: pairing must be 'half' or 'interleaved', got '{pairing}'")
    if not eps >= 0:
        raise ValueError(f"{op}: eps must be at least 0, got {eps}")
    if cos is not None and (len(cos.shape) != 2 or cos.shape[0] != T or 2 * cos.shape[1] > D):
        raise ValueError(f"{op}: cos must be [{T}, at most {D // 2}], got {list(cos.shape)}")
    if (cos is None) != (sin is None):
        missing, other = ("cos", "sin") if cos is None else ("sin", "cos")
        raise ValueError(f"{op}: {missing} must be there beside {other}")
    if cos is not None:
        expect_shape(op, "sin", sin, tuple(cos.shape))
    wide = "float64" if str(qkv.dtype).endswith("float64") else "float32"
    for name, table in (("cos", cos), ("sin", sin)):
        if table is not None and not str(table.dtype).endswith(("float32", wide)):
            raise TypeError(f"{op}: {name} must be float32, got {table.dtype}")
    has_k = k is not None or len(qkv.shape) == 3
    first = None
    for name, v in zip(VECTORS, (q_weight, k_weight, q_bias, k_bias, q_alpha, k_alpha), strict=True):
        alpha = name.endswith("alpha")
        if v is None:
            if alpha and norm == "dyt" and (has_k or name[0] == "q"):
                raise ValueError(f"{op}: {name} must be there for norm 'dyt'")
            continue
        if norm == "none" or (alpha and norm != "dyt"):
            raise ValueError(f"{op}: {name} must be left out for norm '{norm}'")
        if name[0] == "k" and not has_k:
            raise ValueError(f"{op}: {name} must be left out where there is no k")
        expect_shape(op, name, v, (1,) if alpha else (D,))
        if v.dtype != qkv.dtype and not str(v.dtype).endswith("float32"):
            raise TypeError(f"{op}: {name} must be {qkv.dtype} like qkv, or float32, got {v.dtype}")
        if first is not None and v.dtype != first:
            raise TypeError(f"{op}: {name} must have the dtype of the other vectors, {first}, got {v.dtype}")
        first = v.dtype


def sizes(op: str, qkv: Any, k: Any, heads: int, kv_heads: int) -> tuple[Any, Any, int, int, Any]:
    """(B, T, H, Hk, D); Hk is 0 where there is no k."""
    if len(qkv.shape) == 4:
        if heads or kv_heads:
            raise ValueError(f"{op}: heads must be left out beside q [B, T, H, D], which has them")
        B, T, H, D = qkv.shape
        return B, T, H, 0 if k is None else k.shape[2] if len(k.shape) == 4 else 0, D
    if len(qkv.shape) != 3:
        raise ValueError(
            f"{op}: qkv must be [B, T, (heads + 2 kv_heads) D], or q [B, T, H, D], got shape {list(qkv.shape)}"
        )
    if k is not None:
        raise ValueError(f"{op}: k must be left out beside a packed qkv")
    for name, n in (("heads", heads), ("kv_heads", kv_heads)):
        if n < 1:
            raise ValueError(f"{op}: {name} must be at least 1, got {n}")
    B, T, C = qkv.shape
    n = heads + 2 * kv_heads
    if C % n:
        raise ValueError(
            f"{op}: qkv must have a last dimension that is a multiple of heads + 2 kv_heads = {n},"
            f" got shape {list(qkv.shape)}"
        )
    return B, T, heads, kv_heads, C // n


def _outputs(qkv: Any, k: Any, heads: int, kv_heads: int) -> tuple[Any, Any]:
    B, T, H, Hk, D = sizes("qk_norm_rope", qkv, k, heads, kv_heads)
    has_k = k is not None or len(qkv.shape) == 3
    return new_empty(qkv, (B, T, H, D)), new_empty(qkv, (B, T, Hk, D)) if has_k else None


def _kernel(qkv: Any, k: Any, *rest: Any) -> tuple[Any, Any]:
    *_, heads, kv_heads, _, _, _ = rest
    q_out, k_out = _outputs(qkv, k, heads, kv_heads)
    launch(_core.qk_norm_rope, qkv, k, *rest, q_out, k_out)
    return q_out, new_empty(qkv, (0,)) if k_out is None else k_out


def _fake(qkv: Any, k: Any, *rest: Any) -> tuple[Any, Any]:
    q_out, k_out = _outputs(qkv, k, rest[8], rest[9])
    return q_out, new_empty(qkv, (0,)) if k_out is None else k_out


def _reference(
    qkv: Tensor, k: Tensor | None, cos: Tensor | None, sin: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    vectors, (heads, kv_heads, norm, eps, pairing) = rest[:6], rest[6:]
    return reference(
        qkv, cos, sin, *vectors, k=k, heads=heads, kv_heads=kv_heads, norm=norm, eps=eps, pairing=pairing
    )


_SIGNATURE = (
    "Tensor qkv, Tensor? k, Tensor? cos, Tensor? sin, Tensor? q_weight, Tensor? k_weight, Tensor? q_bias,"
    " Tensor? k_bias, Tensor? q_alpha, Tensor? k_alpha, SymInt heads, SymInt kv_heads, str norm, float eps, str pairing"
)
_op = Op(
    f"qk_norm_rope({_SIGNATURE}) -> (Tensor, Tensor)",
    kernel=_kernel,
    reference=_reference,
    fake=_fake,
    check=_check,
)


# ---- backward: gradients that nobody wants come back as empty arrays


def backward_reference(
    dq_out: Tensor,
    dk_out: Tensor,
    qkv: Tensor,
    k: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    q_bias: Tensor | None,
    k_bias: Tensor | None,
    q_alpha: Tensor | None,
    k_alpha: Tensor | None,
    heads: int,
    kv_heads: int,
    norm: str,
    eps: float,
    pairing: str,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """The closed form in csrc/ops/qk_norm_rope.h, in plain PyTorch; sums in at least float32."""
    import torch

    def one(
        dy: Tensor, x: Tensor, weight: Tensor | None, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        du, x_ = dy.to(wide), x.to(wide)
        if cos is not None and sin is not None:
            du = _head(du, cos, -sin, None, None, None, "none", eps, pairing)
        g = du if weight is None else du * weight.to(wide)
        if norm == "dyt":
            assert alpha is not None
            n = torch.tanh(alpha.to(wide) * x_)
            g = g * (1 - n * n)
            return alpha.to(wide) * g, du * n, du, g * x_
        if norm == "none":
            return g, du, du, du
        centred = x_ - x_.mean(-1, keepdim=True) if norm == "layer" else x_
        rstd = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
        n = centred * rstd
        mean_g = g.mean(-1, keepdim=True) if norm == "layer" else 0
        return rstd * (g - mean_g - n * (g * n).mean(-1, keepdim=True)), du * n, du, du

    q, k_ = split(qkv, k, heads, kv_heads)
    dq, *q_sums = one(dq_out, q, q_weight, q_alpha)
    none = qkv.new_empty(0)
    dk, k_sums = none, [none, none, none]
    if k_ is not None:
        dk, *k_sums = one(dk_out, k_, k_weight, k_alpha)
    if qkv.dim() == 3:
        D = q.shape[-1]
        values = q.new_zeros(*q.shape[:2], kv_heads * D, dtype=dq.dtype)
        dqkv, dk = torch.cat([dq.flatten(2), dk.flatten(2), values], dim=-1), none
    else:
        dqkv = dq
    vectors = (q_weight, k_weight, q_bias, k_bias, q_alpha, k_alpha)
    found = [
        v.new_empty(0) if v is not None and not want else none if v is None
        else (s.sum() if i >= 4 else s.sum((0, 1, 2))).reshape(v.shape).to(v.dtype)
        for i, (v, want, s) in enumerate(
            zip(vectors, wanted, (s for pair in zip(q_sums, k_sums, strict=True) for s in pair), strict=True)
        )
    ]  # fmt: skip
    return (dqkv.to(qkv.dtype), dk.to(qkv.dtype), *found)


def _vector_gradients(qkv: Any, vectors: tuple[Any, ...], wanted: list[bool]) -> list[Any]:
    return [
        new_empty(v, v.shape) if v is not None and want else None
        for v, want in zip(vectors, wanted, strict=True)
    ]


def _filled(qkv: Any, vectors: tuple[Any, ...], found: list[Any]) -> list[Any]:
    return [
        new_empty(qkv if v is None else v, (0,)) if d is None else d
        for v, d in zip(vectors, found, strict=True)
    ]


def _backward_kernel(
    dq_out: Any, dk_out: Any, qkv: Any, k: Any, cos: Any, sin: Any, *rest: Any
) -> tuple[Any, ...]:
    vectors, (heads, kv_heads, norm, eps, pairing, wanted) = rest[:6], rest[6:]
    B, T, H, Hk, D = sizes("qk_norm_rope_backward", qkv, k, heads, kv_heads)
    packed = len(qkv.shape) == 3
    dqkv = empty_like(qkv)
    dk = None if k is None else empty_like(k)
    if packed:
        dqkv[..., (H + Hk) * D :] = 0  # the values are the caller's
    found = _vector_gradients(qkv, vectors, wanted)
    rows = B * -(-T // TIME_BLOCK) * D
    size = sum(0 if d is None else rows * (H if i % 2 == 0 else Hk) for i, d in enumerate(found))
    partial = new_empty(qkv, (size,), "float32")
    launch(
        _core.qk_norm_rope_backward, dq_out, dk_out if packed or k is not None else None, qkv, k, cos, sin, *vectors,
        heads, kv_heads, norm, eps, pairing, partial, dqkv, dk, *found,
    )  # fmt: skip
    return (dqkv, new_empty(qkv, (0,)) if dk is None else dk, *_filled(qkv, vectors, found))


def _backward_fake(
    dq_out: Any, dk_out: Any, qkv: Any, k: Any, cos: Any, sin: Any, *rest: Any
) -> tuple[Any, ...]:
    vectors, wanted = rest[:6], rest[-1]
    dk = qkv.new_empty(0) if k is None else k.new_empty(k.shape)
    return (
        qkv.new_empty(qkv.shape),
        dk,
        *_filled(qkv, vectors, _vector_gradients(qkv, vectors, wanted)),
    )


_backward_op = Op(
    f"qk_norm_rope_backward(Tensor dq_out, Tensor dk_out, {_SIGNATURE}, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.options = inputs[10:]
    if inputs[1] is None and inputs[0].dim() == 4:
        ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:10])


def _gradient(ctx: Any, dq_out: Tensor, dk_out: Tensor) -> tuple[Any, ...]:
    qkv, k, cos, sin, *vectors = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:10])
    grads = _backward_op(dq_out, dk_out, qkv, k, cos, sin, *vectors, *ctx.options, needed[4:])
    dqkv, dk, *found = grads
    return (
        dqkv if needed[0] else None,
        dk if needed[1] else None,
        None,
        None,
        *(d if n else None for d, n in zip(found, needed[4:], strict=True)),
        *[None] * 5,
    )


_op.gradient(_gradient, _setup)
