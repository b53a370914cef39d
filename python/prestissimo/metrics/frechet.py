# SPDX-License-Identifier: Apache-2.0
"""Fréchet distance between two sets of embeddings, seen as Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prestissimo.metrics.intervals import Interval, draws_of_groups

Array = NDArray[np.float64]


class Gaussian(NamedTuple):
    """Mean (E,) and covariance (E, E) of a set of embeddings, float64."""

    mean: Array
    covariance: Array


def embedding_matrix(x: ArrayLike, name: str) -> Array:
    """(n, E) float64; raises ValueError naming the argument for another shape, n < 2, or NaN."""
    a = np.asarray(x, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] < 2 or a.shape[1] < 1:
        raise ValueError(f"{name} must be (n, E) with n >= 2, got {a.shape}")
    if not np.isfinite(a).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    return a


def gaussian(x: ArrayLike) -> Gaussian:
    """Sample mean and unbiased covariance of (n, E) embeddings."""
    a = embedding_matrix(x, "x")
    return Gaussian(a.mean(axis=0), np.cov(a, rowvar=False).reshape(a.shape[1], a.shape[1]))


def frechet_between(a: Gaussian, b: Gaussian) -> float:
    """||m_a - m_b||^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)), never below zero.

    The trace of the root is the sum of the singular values of S_a^(1/2) S_b^(1/2): symmetric roots by
    eigendecomposition, so that rank-deficient covariances (fewer clips than dimensions) are exact.

    Source: Dowson and Landau (1982); Kilgour et al., "Fréchet Audio Distance" (Interspeech 2019).
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"both sets must have one width, got {a.mean.shape[0]} and {b.mean.shape[0]}")

    cross = np.linalg.svd(_root(a.covariance).T @ _root(b.covariance), compute_uv=False).sum()
    distance = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return max(float(distance), 0.0)


def _root(covariance: Array) -> Array:
    """R with R R^T = S."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(0))


def _to_fixed(a: Gaussian, b: Gaussian, root_b: Array) -> float:
    """:func:`frechet_between` with one symmetric eigenvalue problem instead of four decompositions.

    The square roots of rounding errors (1e-8 of the scale) are far below what resampling spreads.
    """
    cross = np.sqrt(np.linalg.eigvalsh(root_b.T @ a.covariance @ root_b).clip(0)).sum()
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance between the sets a (n, E) and b (m, E), in float64.

    It is biased upwards for small sets, so compare only sets of equal size.

    Raises:
        ValueError: a set is not (n, E) with n >= 2, holds NaN, or has another width than the other.

    >>> x = np.array([[-1.0], [1.0], [0.0]])      # mean 0, variance 1
    >>> frechet_distance(x, 3 * x + 2)            # (2 - 0)^2 + (3 - 1)^2
    8.0
    """
    return frechet_between(gaussian(embedding_matrix(a, "a")), gaussian(embedding_matrix(b, "b")))


def frechet_interval(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups_a: Sequence[object] | None = None,
    groups_b: Sequence[object] | None = None,
    paired: bool = False,
    draws: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Fréchet distance with a bootstrap interval over tracks.

    Args:
        a: (n, E) embeddings; their groups (the track or prompt of each) are resampled together.
        b: (m, E) embeddings.
        groups_a: group of each row of ``a``; every row alone where None.
        groups_b: group of each row of ``b``; ``b`` is held fixed where None.
        paired: row i of ``b`` is made of row i of ``a``: the same rows of both are drawn.
        draws: bootstrap samples.
        seed: of the resampling.
        level: of the interval.

    A resampled set repeats rows, so its distance is biased upwards; the samples are shifted to have their
    median at the value, and only their spread is used.
    """
    x, y = embedding_matrix(a, "a"), embedding_matrix(b, "b")
    if paired and (groups_b is not None or len(x) != len(y)):
        raise ValueError("paired needs sets of one size, and groups_a alone")
    for name, groups, rows in (("groups_a", groups_a, len(x)), ("groups_b", groups_b, len(y))):
        if groups is not None and len(groups) != rows:
            raise ValueError(f"{name} must name each of the {rows} rows, got {len(groups)}")
    fixed = gaussian(y)
    value = frechet_between(gaussian(x), fixed)
    rows_a = list(draws_of_groups(len(x) if groups_a is None else groups_a, draws, seed))
    if paired:
        rows_b = rows_a
    elif groups_b is not None:
        rows_b = list(draws_of_groups(groups_b, draws, seed + 1))
    else:
        rows_b = []
    if rows_b:
        samples = [
            frechet_between(gaussian(x[i]), gaussian(y[j])) for i, j in zip(rows_a, rows_b, strict=True)
        ]
    else:
        root = _root(fixed.covariance)
        samples = [_to_fixed(gaussian(x[i]), fixed, root) for i in rows_a]
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2]) - np.median(samples)
    return Interval(value, max(value + float(low), 0.0), value + float(high))
