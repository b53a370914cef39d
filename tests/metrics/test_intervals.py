# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from prestissimo.metrics.intervals import Interval, bootstrap, bootstrap_mean, draws_of_groups


def test_mean_interval_has_the_width_of_the_standard_error() -> None:
    x = np.random.default_rng(0).normal(5.0, 2.0, 400)
    interval = bootstrap_mean(x, draws=4000)
    error = x.std() / 20
    assert interval.value == pytest.approx(x.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_clusters_are_drawn_whole_and_widen_the_interval() -> None:
    groups = [i // 10 for i in range(100)]
    for rows in draws_of_groups(groups, 20):
        counts = np.bincount(rows, minlength=100).reshape(10, 10)
        assert (counts == counts[:, :1]).all()
        assert len(rows) == 100
    x = np.repeat(np.random.default_rng(1).normal(size=10), 10)
    alone, together = bootstrap_mean(x), bootstrap_mean(x, groups)
    assert (together.high - together.low) > 2 * (alone.high - alone.low)


def test_seed_decides() -> None:
    x = np.arange(30.0)
    assert bootstrap_mean(x, seed=1) == bootstrap_mean(x, seed=1) != bootstrap_mean(x, seed=2)


def test_any_statistic() -> None:
    x = np.arange(101.0)
    interval = bootstrap(lambda rows: float(np.median(x[rows])), len(x))
    assert interval.value == 50
    assert 30 < interval.low < 50 < interval.high < 70
    assert isinstance(interval, Interval)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="values must be"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="groups must name each"):
        bootstrap_mean([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="groups"):
        next(draws_of_groups([], 1))
