# SPDX-License-Identifier: Apache-2.0
"""Sparse top-k: the linear program of top-k with a p-norm as regulariser. Most of its values are exactly 0 or 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import torch
from .threshold_topk import MOST, ThresholdRows, threshold_op
from .topk_rows import schema_arguments, shaped

if TYPE_CHECKING:
    from torch import Tensor


def sparse_topk(
    scores: Any,
    k: Any,
    offsets: Any = None,
    temperature: float = 1.0,
    hard: bool = False,
    slots: Any = None,
    seed: int | None = None,
    stream: int = 0,
    p: float = 2.0,
) -> Any:
    """y = argmax <scores, y> - temperature / p |y|_p^p over y in [0, 1]^D with sum k.

    The isotonic regression that solves it pools one block of the sorted scores, so that y = clamp(u, 0, 1)^q with
    u = (scores - s) / temperature and q = 1 / (p - 1); s is found by Newton's method (docs/threshold_topk.md).
    Gradients are closed-form.

    Args:
        scores: [..., D], one row of D along the last dimension, or with `offsets` [N], rows one behind the other;
            float32, bfloat16 or float16 (float64 runs through the reference). Minus infinity is never selected.
        k: the sum of each row: an integer, or int64 [rows]. A row with no more finite scores than that is all ones.
        offsets: int64 [rows + 1] from 0 to N: row r is scores[offsets[r]:offsets[r + 1]] and may be empty.
        temperature: weight of the regulariser (the paper's lambda, 0.1 there).
        hard: give 1 at the highest scores of each row (ties to the first) and 0 elsewhere, with the gradient of the
            soft result (straight-through).
        slots: how many a hard row selects, where that is not k: an integer, or int64 [rows].
        seed: adds Gumbel noise, `philox_gumbel` of this seed and stream with the position in scores as the element.
        stream: of the noise, for instance the training step.
        p: above 1 and at most 2. 2 projects onto the capped simplex; 4/3 has a continuous derivative at 0.

    Returns:
        shape, dtype and kind (torch, NumPy, …) of scores, values in [0, 1]. Differentiable in scores.

    Raises:
        ValueError: an argument that does not fit, by name. Values of k, slots and offsets are checked on the CPU; a GPU
            kernel clamps them.
        TypeError: a dtype that no kernel takes.

    Source: Sander et al., "Fast, differentiable and sparse top-k: a convex analysis perspective", ICML 2023.

    >>> import numpy as np
    >>> sparse_topk(np.array([3, 1, 0.5, -1], np.float32), 2)
    array([1.  , 0.75, 0.25, 0.  ], dtype=float32)
    """
    arguments = schema_arguments(
        "sparse_topk", scores, k, offsets, temperature, hard, slots, seed, stream, MOST
    )
    return shaped(_op(*arguments, p)[0], scores)


def link(u: Tensor, p: float) -> tuple[Tensor, Tensor]:
    q = 1 / (p - 1)
    c = u.clamp(0, 1)
    inside = (u > 0) & (u < 1)
    base = torch.where(inside, c, 1)  # 0 ** (q - 1) has no derivative
    return torch.where(inside, base**q, c), torch.where(inside, q * base ** (q - 1), 0)


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
    p: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """The threshold by bisection in plain PyTorch: oracle, baseline and documentation of `sparse_topk`."""
    rows = ThresholdRows(scores, k, counts, offsets, noise, temperature)
    with torch.no_grad():
        low = torch.zeros_like(rows.highest)
        b = rows.bisect(lambda b: link(rows.z + b, p)[0].sum(-1, keepdim=True), low, 1 - rows.lowest)
    return rows.finish(b, link, (p,), hard, selected, slots)


_op = threshold_op("sparse_topk", reference, link, p=True)
