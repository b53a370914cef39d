# SPDX-License-Identifier: Apache-2.0
"""Maximum mean discrepancy between two sets of embeddings, in the form of CMMD."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from prestissimo.metrics.frechet import Array, embedding_matrix


def squared_distances(a: Array, b: Array) -> Array:
    """||a_i - b_j||^2: (n, E) and (m, E) -> (n, m), never below zero."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.maximum(squares, 0)


def mmd(a: ArrayLike, b: ArrayLike, *, bandwidth: float = 10.0, scale: float = 1000.0) -> float:
    """scale * (mean k(a, a) + mean k(b, b) - 2 mean k(a, b)), k(x, y) = exp(-||x - y||^2 / (2 bandwidth^2)).

    The biased estimator: the diagonal is kept, so the value is never negative and zero for equal sets.

    Args:
        a: (n, E) embeddings.
        b: (m, E) embeddings.
        bandwidth: of the Gaussian kernel; 10, CMMD's, suits embeddings of norm near 10.
        scale: CMMD prints thousandths.

    Raises:
        ValueError: a set of another shape or with NaN, widths that differ, a bandwidth not above 0.

    Source: Jayasumana et al., "Rethinking FID: Towards a Better Evaluation Metric for Image Generation"
    (CVPR 2024), equation 4 and the published code.

    >>> x = np.array([[0.0], [1.0]])
    >>> mmd(x, x)
    0.0
    """
    x, y = embedding_matrix(a, "a"), embedding_matrix(b, "b")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both sets must have one width, got {x.shape[1]} and {y.shape[1]}")
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")

    def kernel(p: Array, q: Array) -> float:
        return float(np.exp(-squared_distances(p, q) / (2 * bandwidth**2)).mean())

    return scale * max(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y), 0.0)
