# SPDX-License-Identifier: Apache-2.0
"""Precision, recall, density and coverage: fidelity and variety apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prestissimo.metrics.frechet import Array, embedding_matrix
from prestissimo.metrics.mmd import squared_distances


class Prdc(NamedTuple):
    """Attributes:
    precision: share of fakes that lie in some real ball.
    recall: share of reals that lie in some fake ball.
    density: real balls around a fake, over k; 1 in expectation where both sets come from one distribution.
    coverage: share of reals with a fake in their ball; 1 - 2^-k in the limit there.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: ArrayLike, fake: ArrayLike, k: int = 5) -> Prdc:
    """Four measures from the balls B(x, r_k(x)), r_k(x) the distance from x to its k-th neighbour in its set.

    density = 1/(k M) sum_j sum_i 1[f_j in B(x_i)]; coverage = 1/N sum_i 1[some f_j in B(x_i)];
    precision = 1/M sum_j 1[f_j in some B(x_i)]; recall = 1/N sum_i 1[x_i in some B(f_j)].

    Args:
        real: (N, E) embeddings.
        fake: (M, E) embeddings.
        k: neighbours, below both N and M.

    Raises:
        ValueError: a set of another shape or with NaN, widths that differ, k outside 1 to the set sizes.

    Source: Kynkäänniemi et al. (NeurIPS 2019) for precision and recall; Naeem et al., "Reliable Fidelity and
    Diversity Metrics for Generative Models" (ICML 2020), equations 3 and 5, for density and coverage.
    """
    x, y = embedding_matrix(real, "real"), embedding_matrix(fake, "fake")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both sets must have one width, got {x.shape[1]} and {y.shape[1]}")
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(f"k must be between 1 and {min(len(x), len(y)) - 1}, got {k}")

    def radius(points: Array) -> Array:
        squares = squared_distances(points, points)
        np.fill_diagonal(squares, 0.0)  # rounding must not put another point nearer than itself
        return np.partition(squares, k, axis=1)[:, k]

    cross = squared_distances(x, y)
    in_real = cross <= radius(x)[:, None]
    in_fake = cross <= radius(y)[None]
    return Prdc(
        precision=float(in_real.any(axis=0).mean()),
        recall=float(in_fake.any(axis=1).mean()),
        density=float(in_real.sum() / (k * len(y))),
        coverage=float(in_real.any(axis=1).mean()),
    )
