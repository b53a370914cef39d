# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses over all pairs of two batches, without the matrix of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pairs import TILE, gradients_workspace, sums_workspace
from .registration import Op, _core, empty_like, expect_shape, launch, new_empty, one_number, torch

if TYPE_CHECKING:
    from torch import Tensor

FORMS = ("symmetric", "rows", "sigmoid")


def info_nce(
    a: Any,
    b: Any,
    logit_scale: Any,
    logit_bias: Any = None,
    mask: Any = None,
    a_group: Any = None,
    b_group: Any = None,
    form: str = "symmetric",
    offset: int = 0,
    normalize: bool = False,
) -> Any:
    """L = ½·[CE(s·a·bᵀ, diagonal) + CE(s·b·aᵀ, diagonal)], tile by tile: memory grows with M + N, not with M·N.

    Args:
        a: [M, E], float32, bfloat16 or float16 (float64 runs through the reference).
        b: [N, E], like a. The positive of row i is row i + offset of b.
        logit_scale: s, a number or a tensor of one, for instance exp of a learned parameter.
        logit_bias: added to every logit, a number or a tensor of one; for the sigmoid form only.
        mask: bool [M, N], False where a pair is left out. A row whose positive is left out is no anchor.
        a_group, b_group: int64 [M] and [N]. Pairs of one group are left out unless they are positives (another
            caption of the same song is no negative); a negative number leaves out its whole row or column.
        form: "symmetric" (M = N), "rows" (CE over the rows of s·a·bᵀ alone, N ≥ M: the half of a loss whose b was
            gathered from all processes) or "sigmoid" (Σ over pairs of −log σ(±(s·a·bᵀ + bias)), plus for
            positives, over the number of anchors).
        offset: where the positives of a begin in b.
        normalize: divide every row by its length first: logits are scaled cosine similarities then.

    Returns:
        The mean over anchors, a float32 tensor of one number. Products are of the dtype of a, sums in float32.
        Differentiable in a, b, logit_scale and logit_bias; the backward computes the products again.

    Raises:
        ValueError: a shape, form or offset that does not fit, naming the argument.
        TypeError: dtypes that differ from a's, or that no kernel takes.

    Source: Radford et al., CLIP (arXiv 2103.00020), figure 3; Zhai et al., SigLIP (arXiv 2303.15343), algorithm 1.

    >>> import numpy as np
    >>> a = np.eye(3, dtype=np.float32)
    >>> round(float(info_nce(a, a, logit_scale=2.0)), 4)
    0.2395
    """
    scale, bias = one_number(a, logit_scale), one_number(a, logit_bias)
    return _op(a, b, scale, bias, mask, a_group, b_group, form, offset, normalize)[0]


def _logits(
    a: Tensor,
    b: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    mask: Tensor | None,
    a_group: Tensor | None,
    b_group: Tensor | None,
    offset: int,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """The logits in at least float32, and which pairs take part."""
    import torch
    import torch.nn.functional as F

    if normalize:
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    logits = (logit_scale * (a @ b.T)).to(torch.promote_types(a.dtype, torch.float32))
    if logit_bias is not None:
        logits = logits + logit_bias
    keep = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask
    if a_group is not None and b_group is not None:
        own = torch.arange(len(a), device=a.device)[:, None] + offset
        positive = own == torch.arange(len(b), device=a.device)
        keep = keep & ((a_group[:, None] != b_group) | positive) & (a_group[:, None] >= 0) & (b_group >= 0)
    return logits, keep


def reference(
    a: Tensor,
    b: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    mask: Tensor | None = None,
    a_group: Tensor | None = None,
    b_group: Tensor | None = None,
    form: str = "symmetric",
    offset: int = 0,
    normalize: bool = False,
) -> Tensor:
    """The formula in plain PyTorch, with the whole matrix: oracle, baseline and documentation of `info_nce`."""
    import torch
    import torch.nn.functional as F

    logits, keep = _logits(a, b, logit_scale, logit_bias, mask, a_group, b_group, offset, normalize)
    own = torch.arange(len(a), device=a.device)
    anchor = keep[own, own + offset]

    def cross_entropy(logits: Tensor, keep: Tensor, labels: Tensor) -> Tensor:
        # a row without anchor counts for nothing; kept whole, its gradient is zero and not NaN
        kept = logits.masked_fill(~keep & anchor[:, None], -torch.inf)
        return torch.where(anchor, F.cross_entropy(kept, labels, reduction="none"), 0).sum() / anchor.sum()

    if form == "sigmoid":
        sign = -torch.ones_like(logits)
        sign[own, own + offset] = 1
        return torch.where(keep, -F.logsigmoid(sign * logits), 0).sum() / anchor.sum()
    rows = cross_entropy(logits, keep, own + offset)
    return rows if form == "rows" else (rows + cross_entropy(logits.T, keep.T, own)) / 2


def _sums_reference(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and the log-sum-exps of rows and columns."""
    import torch

    form = args[7]
    logits, keep = _logits(*args[:7], *args[8:])
    kept = logits.masked_fill(~keep, -torch.inf)
    none = kept.new_empty(0)
    row = none if form == "sigmoid" else kept.logsumexp(1)
    column = kept.logsumexp(0) if form == "symmetric" else none
    return reference(*args), row.double(), column.double()


def _check(
    a: Any,
    b: Any,
    logit_scale: Any,
    logit_bias: Any,
    mask: Any,
    a_group: Any,
    b_group: Any,
    form: str,
    offset: int,
    normalize: bool,
    op: str = "info_nce",
) -> None:
    if len(a.shape) != 2:
        raise ValueError(f"{op}: a must have 2 dimensions, got shape {list(a.shape)}")
    if form not in FORMS:
        raise ValueError(f"{op}: form must be 'symmetric', 'rows' or 'sigmoid', got '{form}'")
    M, E = a.shape
    N = b.shape[0] if len(b.shape) == 2 and form != "symmetric" else M
    expect_shape(op, "b", b, (N, E))
    if b.dtype != a.dtype:
        raise TypeError(f"{op}: b must be {a.dtype} like a, got {b.dtype}")
    if not 0 <= offset <= N - M:
        raise ValueError(f"{op}: offset must be between 0 and {N - M}, got {offset}")
    expect_shape(op, "logit_scale", logit_scale, ())
    expect_shape(op, "logit_bias", logit_bias, ())
    if logit_bias is not None and form != "sigmoid":
        raise ValueError(f"{op}: logit_bias goes with form 'sigmoid' only")
    expect_shape(op, "mask", mask, (M, N))
    expect_shape(op, "a_group", a_group, (M,))
    expect_shape(op, "b_group", b_group, (N,))
    if (a_group is None) != (b_group is None):
        raise ValueError(f"{op}: a_group and b_group go together")
    for name, array, dtype in (
        ("mask", mask, "bool"),
        ("a_group", a_group, "int64"),
        ("b_group", b_group, "int64"),
    ):
        if array is not None and not str(array.dtype).endswith(dtype):
            raise TypeError(f"{op}: {name} must be {dtype}, got {array.dtype}")


def _sizes(a: Any, b: Any, form: str) -> tuple[int, int]:
    """Of the log-sum-exps of rows and of columns."""
    return 0 if form == "sigmoid" else a.shape[0], b.shape[0] if form == "symmetric" else 0


def _kernel(a: Any, b: Any, *rest: Any) -> tuple[Any, Any, Any]:
    form = rest[-3]
    sums = (new_empty(a, (n,), "float64") for n in _sizes(a, b, form))
    out = (new_empty(a, (), "float32"), *sums)
    launch(_core.info_nce, a, b, *rest, *out, sums_workspace(a, b))
    return out


def _fake(a: Any, b: Any, *rest: Any) -> tuple[Any, ...]:
    sums = (a.new_empty(n, dtype=torch.float64) for n in _sizes(a, b, rest[-3]))
    return (a.new_empty((), dtype=torch.promote_types(a.dtype, torch.float32)), *sums)


_PAIRS = "Tensor a, Tensor b, Tensor logit_scale, Tensor? logit_bias, Tensor? mask, Tensor? a_group, Tensor? b_group"

_op = Op(
    f"info_nce({_PAIRS}, str form, int offset, bool normalize) -> (Tensor, Tensor, Tensor)",
    kernel=_kernel,
    reference=_sums_reference,
    fake=_fake,
    check=_check,
)


# ---- backward: the gradient of a or b, where nobody wants it, comes back as an empty array


def backward_reference(
    a: Tensor,
    b: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    mask: Tensor | None,
    a_group: Tensor | None,
    b_group: Tensor | None,
    row_lse: Tensor,
    column_lse: Tensor,
    dloss: Tensor,
    form: str,
    offset: int,
    normalize: bool,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The closed form in csrc/ops/info_nce.h, in plain PyTorch; sums in at least float32."""
    import torch

    logits, keep = _logits(a, b, logit_scale, logit_bias, mask, a_group, b_group, offset, normalize)
    own = torch.arange(len(a), device=a.device)
    anchor = keep[own, own + offset].to(logits.dtype)
    weight = dloss / anchor.sum()
    positive = torch.zeros_like(logits)
    positive[own, own + offset] = 1

    def of_rows(logits: Tensor, keep: Tensor, lse: Tensor, positive: Tensor) -> Tensor:
        p = torch.where(
            keep & (anchor[:, None] > 0), logits - lse[:, None].to(logits.dtype), -torch.inf
        ).exp()
        return weight * (p - positive * anchor[:, None])

    if form == "sigmoid":
        dx = weight * torch.where(keep, logits.sigmoid() - positive, 0)
    else:
        dx = of_rows(logits, keep, row_lse, positive)
        if form == "symmetric":
            dx = (dx + of_rows(logits.T, keep.T, column_lse, positive).T) / 2
    wide = logits.dtype
    a_, b_ = a.to(wide), b.to(wide)
    lengths = [
        v.norm(dim=-1, keepdim=True).clamp_min(1e-12) if normalize else v.new_ones(1) for v in (a_, b_)
    ]
    a_, b_ = a_ / lengths[0], b_ / lengths[1]

    def like(v: Tensor, unit: Tensor, length: Tensor, u: Tensor, want: bool) -> Tensor:
        if normalize:
            u = (u - unit * (unit * u).sum(-1, keepdim=True)) / length
        return u.to(v.dtype) if want else v.new_empty(0)

    return (
        like(a, a_, lengths[0], logit_scale * (dx @ b_), wanted[0]),
        like(b, b_, lengths[1], logit_scale * (dx.T @ a_), wanted[1]),
        (dx * (a_ @ b_.T)).sum(),
        dx.sum(),
    )


def _backward_kernel(a: Any, b: Any, *rest: Any) -> tuple[Any, ...]:
    *arguments, wanted = rest
    da, db = (empty_like(v) if want else None for v, want in zip((a, b), wanted, strict=True))
    dscale, dbias = new_empty(a, (), "float32"), new_empty(a, (), "float32")
    M, N = a.shape[0], b.shape[0]
    workspace = gradients_workspace(a, M, TILE, N, a.shape[1], 2 * (M + N) + 32)
    launch(_core.info_nce_backward, a, b, *arguments, da, db, dscale, dbias, workspace)
    return (*(new_empty(a, (0,)) if d is None else d for d in (da, db)), dscale, dbias)


def _backward_fake(a: Any, b: Any, *rest: Any) -> tuple[Any, ...]:
    da, db = (v.new_empty(v.shape if want else 0) for v, want in zip((a, b), rest[-1], strict=True))
    wide = torch.promote_types(a.dtype, torch.float32)
    return da, db, a.new_empty((), dtype=wide), a.new_empty((), dtype=wide)


_backward_op = Op(
    f"info_nce_backward({_PAIRS}, Tensor row_lse, Tensor column_lse, Tensor dloss, str form, int offset,"
    " bool normalize, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, ctx.form, ctx.offset, ctx.normalize = inputs
    _, row_lse, column_lse = output
    ctx.mark_non_differentiable(row_lse, column_lse)
    ctx.save_for_backward(*tensors, row_lse, column_lse)


def _gradient(ctx: Any, dloss: Tensor, *_: Any) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:4]
    settings = (ctx.form, ctx.offset, ctx.normalize)
    grads = _backward_op(*ctx.saved_tensors, dloss, *settings, list(needed[:2]))
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), *[None] * 6)


_op.gradient(_gradient, _setup)
