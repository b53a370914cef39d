# SPDX-License-Identifier: Apache-2.0
"""Lead-AE's relaxed top-k: k softmaxes, each without what the ones before it took; over rows of any lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_shape, launch
from .topk_rows import SCHEMA, DenseRows, check_rows, schema_arguments, shaped, workspace

if TYPE_CHECKING:
    from torch import Tensor

MOST = 64  # kMostRelaxedSteps of csrc/ops/relaxed_topk.h
TINY = 2.0**-126  # the smallest normal float32, in every dtype


def relaxed_topk(
    scores: Any,
    k: Any,
    offsets: Any = None,
    temperature: float = 1.0,
    hard: bool = False,
    slots: Any = None,
    seed: int | None = None,
    stream: int = 0,
) -> Any:
    """p_i = softmax(a_i / t), a_{i+1} = a_i + ln max(1 - p_i, tiny), a_1 = scores + noise; the sum of k of them.

    The result sums to k in every row; single values may exceed 1. Gradients are closed-form (docs/relaxed_topk.md).

    Args:
        scores: [..., D], one row of D along the last dimension, or with `offsets` [N], rows one behind the other;
            float32, bfloat16 or float16 (float64 runs through the reference). Minus infinity is never selected.
        k: softmaxes per row, 0 to 64: an integer, or int64 [rows]. Lead-AE's slots plus one.
        offsets: int64 [rows + 1] from 0 to N: row r is scores[offsets[r]:offsets[r + 1]] and may be empty.
        temperature: t.
        hard: give 1 at the highest of each row (by the soft result, then by score, then the first) and 0 elsewhere,
            with the gradient of the soft result (straight-through).
        slots: how many a hard row selects, where that is not k: an integer, or int64 [rows].
        seed: adds Gumbel noise, `philox_gumbel` of this seed and stream with the position in scores as the element.
        stream: of the noise, for instance the training step.

    Returns:
        shape, dtype and kind (torch, NumPy, …) of scores. Differentiable in scores.

    Raises:
        ValueError: an argument that does not fit, by name. Values of k, slots and offsets are checked on the CPU; a GPU
            kernel clamps them.
        TypeError: a dtype that no kernel takes.

    Source: Lead-AE (arXiv 2310.10772); Xie and Ermon, "Reparameterizable subset sampling", IJCAI 2019.

    >>> import numpy as np
    >>> scores = np.array([2, 1, 0, 3, 3], np.float32)
    >>> relaxed_topk(scores, 2, offsets=np.array([0, 3, 5])).round(3)
    array([1.12 , 0.622, 0.257, 1.   , 1.   ], dtype=float32)
    >>> relaxed_topk(scores, 2, offsets=np.array([0, 3, 5]), hard=True, slots=1)
    array([1., 0., 0., 1., 0.], dtype=float32)
    """
    arguments = schema_arguments(
        "relaxed_topk", scores, k, offsets, temperature, hard, slots, seed, stream, MOST
    )
    return shaped(_op(*arguments), scores)


def reference(
    scores: Tensor,
    k: int,
    counts: Tensor | None = None,
    offsets: Tensor | None = None,
    temperature: float = 1.0,
    hard: bool = False,
    selected: int = -1,
    slots: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Lead-AE's loop over padded rows in plain PyTorch: oracle, baseline and documentation of `relaxed_topk`."""
    import torch

    rows = DenseRows(scores, k, counts, offsets)
    first = a = rows.scores(scores, noise)
    khot = torch.zeros_like(a)
    for i in range(int(rows.k.max()) if len(rows.k) else 0):
        p = torch.softmax(a / temperature, dim=-1)
        khot = khot + torch.where((i < rows.k)[:, None], p, 0)
        a = a + torch.log(torch.clamp(_one_minus(p), min=TINY))
    if hard:
        khot = rows.straight_through(khot, (khot, first), selected, slots)
    return rows.flat(khot)


def _one_minus(p: Tensor) -> Tensor:
    """1 - p of rows that sum to 1: for a p above one half the sum of the others, which cancels nothing."""
    top = p > 0.5
    return (1 - p).where(~top, p.masked_fill(top, 0).sum(-1, keepdim=True))


def _check(*arguments: Any, op: str = "relaxed_topk") -> None:
    check_rows(op, MOST, *arguments)


def _kernel(*arguments: Any) -> Any:
    out = empty_like(arguments[0])
    *head, hard, selected, slots, noise = arguments
    launch(_core.relaxed_topk, *head, int(hard), selected, slots, noise, workspace(arguments[0], 2), out)
    return out


_op = Op(
    f"relaxed_topk({SCHEMA}) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda scores, *_: scores.new_empty(scores.shape),
    check=_check,
)


# ---- backward: an op of its own


def backward_reference(
    dout: Tensor,
    scores: Tensor,
    k: int,
    counts: Tensor | None,
    offsets: Tensor | None,
    temperature: float,
    noise: Tensor | None,
) -> Tensor:
    """The closed form in csrc/ops/relaxed_topk.h, in plain PyTorch."""
    import torch

    rows = DenseRows(scores, k, counts, offsets)
    a, g = rows.scores(scores, noise), rows.dense(dout)
    steps = []
    for _ in range(int(rows.k.max()) if len(rows.k) else 0):
        p = torch.softmax(a / temperature, dim=-1)
        m = _one_minus(p)
        steps.append((p, m))
        a = a + torch.log(torch.clamp(m, min=TINY))
    d = torch.zeros_like(a)
    for i, (p, m) in reversed(list(enumerate(steps))):
        q = g - torch.where(m > TINY, d / m, 0)
        step = d + p * (q - (q * p).sum(-1, keepdim=True)) / temperature
        d = torch.where((i < rows.k)[:, None], step, d)
    return rows.flat(d)


def _backward_check(
    dout: Any, scores: Any, k: int, counts: Any, offsets: Any, temperature: float, noise: Any
) -> None:
    _check(scores, k, counts, offsets, temperature, False, -1, None, noise, op="relaxed_topk_backward")
    expect_shape("relaxed_topk_backward", "dout", dout, tuple(scores.shape))


def _backward_kernel(
    dout: Any, scores: Any, k: int, counts: Any, offsets: Any, temperature: float, noise: Any
) -> Any:
    dscores = empty_like(scores)
    launch(
        _core.relaxed_topk_backward,
        *(dout, scores, k, counts, offsets, temperature, noise, workspace(scores, k + 2), dscores),
    )
    return dscores


_backward_op = Op(
    "relaxed_topk_backward(Tensor dout, Tensor scores, int k, Tensor? counts, Tensor? offsets, float temperature,"
    " Tensor? noise) -> Tensor",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dout, scores, *_: scores.new_empty(scores.shape),
    check=_backward_check,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    scores, ctx.k, counts, offsets, ctx.temperature, _, _, _, noise = inputs
    ctx.save_for_backward(scores, counts, offsets, noise)


def _gradient(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    scores, counts, offsets, noise = ctx.saved_tensors
    dscores = _backward_op(dout, scores, ctx.k, counts, offsets, ctx.temperature, noise)
    return (dscores, *(None,) * 8)


_op.gradient(_gradient, _setup)
