# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals over tracks or wordings: clips of one group are drawn together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Interval(NamedTuple):
    """A point estimate with the ends of its interval (95 % unless said otherwise).

    >>> print(Interval(1.5, 1.25, 2.0))
    1.5 (1.25 to 2)
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def draws_of_groups(groups: Sequence[object] | int, draws: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Index arrays of a cluster bootstrap: whole groups drawn with replacement, as many as there are.

    Args:
        groups: the group (track, wording) of each item, or the number of items where each stands alone.
        draws: how many index arrays to give.
        seed: of NumPy's generator.

    Raises:
        ValueError: there is no item.
    """
    labels = list(range(groups)) if isinstance(groups, int) else list(groups)
    if not labels:
        raise ValueError("groups must name at least one item")
    members: dict[object, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    clusters = [np.asarray(indices, dtype=np.int64) for indices in members.values()]
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.concatenate([clusters[i] for i in rng.integers(len(clusters), size=len(clusters))])


def percentile_interval(value: float, samples: ArrayLike, level: float = 0.95) -> Interval:
    """The value between the quantiles (1 - level) / 2 and (1 + level) / 2 of its bootstrap samples."""
    low, high = np.quantile(np.asarray(samples, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def bootstrap_mean(
    values: ArrayLike,
    groups: Sequence[object] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of (n,) values with its percentile interval; ``groups`` names each value's cluster.

    >>> bootstrap_mean([3.0, 3.0, 3.0])
    Interval(value=3.0, low=3.0, high=3.0)
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"values must be (n,) with n >= 1, got {x.shape}")
    if groups is not None and len(groups) != len(x):
        raise ValueError(f"groups must name each of the {len(x)} values, got {len(groups)}")
    means = [x[i].mean() for i in draws_of_groups(len(x) if groups is None else groups, draws, seed)]
    return percentile_interval(float(x.mean()), means, level)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Sequence[object] | int,
    *,
    draws: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """``statistic`` of all indices, with the percentile interval of ``statistic`` over resampled groups."""
    n = groups if isinstance(groups, int) else len(groups)
    samples = [statistic(i) for i in draws_of_groups(groups, draws, seed)]
    return percentile_interval(statistic(np.arange(n)), samples, level)
