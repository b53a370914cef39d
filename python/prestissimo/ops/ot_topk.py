# SPDX-License-Identifier: Apache-2.0
"""Top-k as entropic optimal transport onto two targets, the SOFT operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import torch
from .sigmoid_topk import link
from .threshold_topk import MOST, ThresholdRows, threshold_op
from .topk_rows import schema_arguments, shaped

if TYPE_CHECKING:
    from torch import Tensor

SWEEPS = 2000  # of Sinkhorn in the reference, which converge by a constant factor each


def ot_topk(
    scores: Any,
    k: Any,
    offsets: Any = None,
    temperature: float = 1.0,
    hard: bool = False,
    slots: Any = None,
    seed: int | None = None,
    stream: int = 0,
) -> Any:
    """y = D G[:, 1], G = argmin <C, G> + temperature sum G ln G with rows 1/D and columns (D - k, k)/D.

    C[i, j] = (scores[i] - j)^2 for the targets j = 0 and 1: the transport plan of Sinkhorn's algorithm at convergence.
    With two targets the plan has one unknown, and is y = sigmoid((2 scores - s) / temperature): it is found by Newton's
    method as the threshold of `sigmoid_topk` at half the temperature (docs/threshold_topk.md).

    Args:
        scores: [..., D], one row of D along the last dimension, or with `offsets` [N], rows one behind the other;
            float32, bfloat16 or float16 (float64 runs through the reference). Minus infinity is never selected.
        k: the sum of each row: an integer, or int64 [rows]. A row with no more finite scores than that is all ones.
        offsets: int64 [rows + 1] from 0 to N: row r is scores[offsets[r]:offsets[r + 1]] and may be empty.
        temperature: weight of the entropy.
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

    Source: Xie et al., "Differentiable top-k with optimal transport", NeurIPS 2020.

    >>> import numpy as np
    >>> ot_topk(np.array([2, 1, 0, -1], np.float32), 2, temperature=2.0).round(3)
    array([0.818, 0.622, 0.378, 0.182], dtype=float32)
    """
    arguments = schema_arguments("ot_topk", scores, k, offsets, temperature, hard, slots, seed, stream, MOST)
    return shaped(_op(*arguments)[0], scores)


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
    """Sinkhorn's algorithm in plain PyTorch: oracle, baseline and documentation of `ot_topk`.

    The row of score x goes to target 1 with weight e^(-(x - 1)^2 / t + g) and to target 0 with e^(-x^2 / t), g being
    the difference of the targets' potentials; scaling rows to 1/D leaves y = sigmoid((2x - 1) / t + g), and scaling
    columns then adds ln(k / sum y) - ln((D - k) / sum(1 - y)) to g.
    """
    rows = ThresholdRows(scores, k, counts, offsets, noise, temperature / 2)
    with torch.no_grad():
        n = rows.finite.to(rows.wide)
        b = torch.log(rows.wanted / (n - rows.wanted)).nan_to_num() - rows.z.masked_fill(
            rows.z == -torch.inf, 0
        ).mean(-1, keepdim=True)
        for _ in range(SWEEPS):
            y = torch.sigmoid(rows.z + b)
            to_one, to_zero = y.sum(-1, keepdim=True), torch.sigmoid(-rows.z - b).sum(-1, keepdim=True)
            to_zero = to_zero - (rows.z.shape[-1] - n)  # scores of minus infinity, and pads, take no part
            step = torch.log(rows.wanted / to_one) - torch.log((n - rows.wanted) / to_zero)
            step = torch.where((rows.wanted > 0) & (rows.wanted < n), step, 0)
            b = b + step
            if not (step.abs() > 8 * torch.finfo(rows.wide).eps).any():
                break
    return rows.finish(b, link, (), hard, selected, slots)


_op = threshold_op("ot_topk", reference, link, scale=0.5)
