# SPDX-License-Identifier: Apache-2.0
"""How well each text fits each song, the text deciding which of the song's segments count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pairs import TILE, gradients_workspace
from .registration import Op, _core, empty_like, expect_shape, launch, new_empty, one_number, torch

if TYPE_CHECKING:
    from torch import Tensor


def segment_similarity(segments: Any, text: Any, temperature: Any = 0.1, mask: Any = None) -> Any:
    """P[i, j] = Σ_s α_s·c_s with c_s = ⟨segments[i, s], text[j]⟩ and α = softmax_s(c/τ), without the (B, N, S) tensor.

    Args:
        segments: [B, S, E], float32, bfloat16 or float16 (float64 runs through the reference): S ≥ 1 embedded
            segments of each song, of length 1 for cosine similarities.
        text: [N, E], like segments.
        temperature: τ, a number or a tensor of one, not 0.
        mask: bool [B, S], False where a segment is padding. A song without segments scores NaN.

    Returns:
        [B, N], dtype and kind (torch, NumPy, …) of segments. Differentiable in segments, text and temperature; the
        backward computes the products again.

    Raises:
        ValueError: a shape that does not fit, naming the argument.
        TypeError: dtypes that differ from that of segments, or that no kernel takes.

    Source: the text-conditioned attention over segments of CoLLAP (arXiv 2410.02271), which says it in words: this
    formula has all the properties named there.

    >>> import numpy as np
    >>> segments = np.eye(2, dtype=np.float32)[None]
    >>> segment_similarity(segments, np.float32([[1, 0]]), temperature=1.0).round(4)
    array([[0.7311]], dtype=float32)
    """
    return _op(segments, text, one_number(segments, temperature), mask)


def _attention(
    segments: Tensor, text: Tensor, temperature: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """c, α and P, at least float32: [B, N, S] twice and [B, N]."""
    import torch

    c = torch.einsum("bse,ne->bns", segments, text).to(torch.promote_types(segments.dtype, torch.float32))
    logits = c / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], -torch.inf)
        c = c.masked_fill(~mask[:, None], 0)
    alpha = logits.softmax(-1)
    return c, alpha, (alpha * c).sum(-1)


def reference(segments: Tensor, text: Tensor, temperature: Tensor, mask: Tensor | None = None) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `segment_similarity`."""
    return _attention(segments, text, temperature, mask)[2].to(segments.dtype)


def _check(segments: Any, text: Any, temperature: Any, mask: Any, op: str = "segment_similarity") -> None:
    if len(segments.shape) != 3:
        raise ValueError(f"{op}: segments must have 3 dimensions, got shape {list(segments.shape)}")
    B, S, E = segments.shape
    if S == 0:
        raise ValueError(f"{op}: segments must have at least 1 segment, got shape {list(segments.shape)}")
    expect_shape(op, "text", text, (text.shape[0] if len(text.shape) == 2 else 0, E))
    if text.dtype != segments.dtype:
        raise TypeError(f"{op}: text must be {segments.dtype} like segments, got {text.dtype}")
    expect_shape(op, "temperature", temperature, ())
    expect_shape(op, "mask", mask, (B, S))
    if mask is not None and not str(mask.dtype).endswith("bool"):
        raise TypeError(f"{op}: mask must be bool, got {mask.dtype}")


def _kernel(segments: Any, text: Any, temperature: Any, mask: Any) -> Any:
    out = new_empty(segments, (segments.shape[0], text.shape[0] if len(text.shape) else 0))
    launch(_core.segment_similarity, segments, text, temperature, mask, out)
    return out


_op = Op(
    "segment_similarity(Tensor segments, Tensor text, Tensor temperature, Tensor? mask) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda segments, text, *_: segments.new_empty((segments.shape[0], text.shape[0])),
    check=_check,
)


# ---- backward: the gradient of segments or text, where nobody wants it, comes back as an empty array


def backward_reference(
    segments: Tensor,
    text: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    dout: Tensor,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The closed form in csrc/ops/segment_similarity.h, in plain PyTorch; sums in at least float32."""
    import torch

    c, alpha, score = _attention(segments, text, temperature, mask)
    away = c - score[..., None]
    d = dout.to(c.dtype)[..., None] * alpha
    dc = d * (1 + away / temperature)
    dsegments = torch.einsum("bns,ne->bse", dc, text.to(c.dtype)).to(segments.dtype)
    dtext = torch.einsum("bns,bse->ne", dc, segments.to(c.dtype)).to(text.dtype)
    return (
        dsegments if wanted[0] else segments.new_empty(0),
        dtext if wanted[1] else text.new_empty(0),
        -(d * away**2).sum() / temperature**2,
    )


def _backward_kernel(
    segments: Any, text: Any, temperature: Any, mask: Any, dout: Any, wanted: list[bool]
) -> tuple[Any, ...]:
    gradients = [empty_like(v) if want else None for v, want in zip((segments, text), wanted, strict=True)]
    dtemperature = new_empty(segments, (), "float32")
    (B, S, E), N = segments.shape, text.shape[0]
    workspace = gradients_workspace(segments, B * S, max(TILE // S, 1) * S, N, E)
    launch(
        _core.segment_similarity_backward,
        *(segments, text, temperature, mask, dout, *gradients, dtemperature, workspace),
    )
    return (*(new_empty(segments, (0,)) if d is None else d for d in gradients), dtemperature)


def _backward_fake(segments: Any, text: Any, *rest: Any) -> tuple[Any, ...]:
    gradients = (
        v.new_empty(v.shape if want else 0) for v, want in zip((segments, text), rest[-1], strict=True)
    )
    return (*gradients, segments.new_empty((), dtype=torch.promote_types(segments.dtype, torch.float32)))


_backward_op = Op(
    "segment_similarity_backward(Tensor segments, Tensor text, Tensor temperature, Tensor? mask, Tensor dout,"
    " bool[] wanted) -> (Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:3]
    grads = _backward_op(*ctx.saved_tensors, dout, list(needed[:2]))
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None)


_op.gradient(_gradient, _setup)
