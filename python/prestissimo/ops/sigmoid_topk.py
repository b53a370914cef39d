# SPDX-License-Identifier: Apache-2.0
"""Top-k as sigmoids above a common threshold: the cheapest of the relaxations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import torch
from .threshold_topk import MOST, ThresholdRows, threshold_op
from .topk_rows import schema_arguments, shaped

if TYPE_CHECKING:
    from torch import Tensor


def sigmoid_topk(
    scores: Any,
    k: Any,
    offsets: Any = None,
    temperature: float = 1.0,
    hard: bool = False,
    slots: Any = None,
    seed: int | None = None,
    stream: int = 0,
) -> Any:
    """y = 1 / (1 + e^-u), u = (scores + noise - s) / t, the s of each row such that y sums to k.

    Gradients are closed-form: v (dy - <v, dy> / sum v) / t with v = y (1 - y) (docs/threshold_topk.md).

    Args:
        scores: [..., D], one row of D along the last dimension, or with `offsets` [N], rows one behind the other;
            float32, bfloat16 or float16 (float64 runs through the reference). Minus infinity is never selected.
        k: the sum of each row: an integer, or int64 [rows]. A row with no more finite scores than that is all ones.
        offsets: int64 [rows + 1] from 0 to N: row r is scores[offsets[r]:offsets[r + 1]] and may be empty.
        temperature: t.
        hard: give 1 at the highest scores of each row (ties to the first) and 0 elsewhere, with the gradient of the
            soft result (straight-through).
        slots: how many a hard row selects, where that is not k: an integer, or int64 [rows].
        seed: adds Gumbel noise, `philox_gumbel` of this seed and stream with the position in scores as the element.
        stream: of the noise, for instance the training step.

    Returns:
        shape, dtype and kind (torch, NumPy, …) of scores, values in [0, 1]. Differentiable in scores.

    Raises:
        ValueError: an argument that does not fit, by name. Values of k, slots and offsets are checked on the CPU; a GPU
            kernel clamps them.
        TypeError: a dtype that no kernel takes.

    Source: T. Ahle, "Differentiable top-k function", 2022.

    >>> import numpy as np
    >>> sigmoid_topk(np.array([2, 1, 0, -1], np.float32), 2).round(3)
    array([0.818, 0.622, 0.378, 0.182], dtype=float32)
    """
    arguments = schema_arguments(
        "sigmoid_topk", scores, k, offsets, temperature, hard, slots, seed, stream, MOST
    )
    return shaped(_op(*arguments)[0], scores)


def link(u: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.sigmoid(u)
    return y, y * torch.sigmoid(-u)


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
) -> tuple[Tensor, Tensor]:
    """The threshold by bisection in plain PyTorch: oracle, baseline and documentation of `sigmoid_topk`."""
    rows = ThresholdRows(scores, k, counts, offsets, noise, temperature)
    with torch.no_grad():
        n = rows.finite.to(rows.wide)
        low = torch.log(rows.wanted / (n - rows.wanted)).nan_to_num()  # all scores equal
        b = rows.bisect(lambda b: torch.sigmoid(rows.z + b).sum(-1, keepdim=True), low, low - rows.lowest)
    return rows.finish(b, link, (), hard, selected, slots)


_op = threshold_op("sigmoid_topk", reference, link)
