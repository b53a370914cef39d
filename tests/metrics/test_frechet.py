# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import scipy.linalg

from prestissimo.metrics import frechet
from prestissimo.metrics.frechet import (
    Gaussian,
    frechet_between,
    frechet_distance,
    frechet_interval,
    gaussian,
)


def exact(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """n points whose sample mean and unbiased covariance are exactly those given."""
    d = len(mean)
    x = np.random.default_rng(seed).normal(size=(n, d))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_commuting_gaussians_have_a_closed_form() -> None:
    # diagonal covariances: sum of (m_i - n_i)^2 + (s_i - t_i)^2
    m, n = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    s, t = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.25, 0.5])
    expected = ((m - n) ** 2).sum() + ((s - t) ** 2).sum()
    got = frechet_distance(exact(m, np.diag(s**2), 50), exact(n, np.diag(t**2), 80, seed=1))
    assert got == pytest.approx(expected, rel=1e-9)


def test_general_covariances_agree_with_the_matrix_root() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(6, 6)), rng.normal(size=(6, 6))
    x, y = Gaussian(rng.normal(size=6), a @ a.T), Gaussian(rng.normal(size=6), b @ b.T)
    root = scipy.linalg.sqrtm(x.covariance @ y.covariance).real
    expected = ((x.mean - y.mean) ** 2).sum() + np.trace(x.covariance + y.covariance - 2 * root)
    assert frechet_between(x, y) == pytest.approx(expected, rel=1e-8)


def test_rank_deficient_sets_are_exact() -> None:
    # 5 points in 40 dimensions; a shift moves the distance by its square alone, a rotation changes nothing
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 40))
    shift = rng.normal(size=40)
    q, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + shift) == pytest.approx((shift**2).sum(), rel=1e-9)
    y = rng.normal(size=(7, 40))
    assert frechet_distance(x @ q, y @ q) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


def test_scaling_in_one_dimension() -> None:
    x = np.random.default_rng(4).normal(size=(100, 1))
    variance = gaussian(x).covariance[0, 0]
    mean = float(x.mean())
    assert frechet_distance(x, 3 * x) == pytest.approx(variance * 4 + (2 * mean) ** 2, rel=1e-9)


def test_interval_holds_the_value_and_narrows_with_more_tracks() -> None:
    rng = np.random.default_rng(5)
    few, many = rng.normal(size=(40, 4)), rng.normal(size=(640, 4))
    reference = rng.normal(1.0, 1.0, size=(400, 4))
    wide, narrow = frechet_interval(few, reference), frechet_interval(many, reference)
    for interval in (wide, narrow):
        assert interval.low <= interval.value <= interval.high
    assert (narrow.high - narrow.low) < 0.5 * (wide.high - wide.low)
    assert narrow.low < 4.0 < narrow.high  # the distance between the two distributions


def test_pairs_are_drawn_together() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(60, 3)) * np.array([1, 5, 10])
    y = x + 1.0  # every pair differs alike, so no resampling of pairs can change the distance
    paired = frechet_interval(x, y, paired=True)
    assert paired.low == pytest.approx(3.0, abs=1e-6)
    assert paired.high == pytest.approx(3.0, abs=1e-6)
    apart = frechet_interval(x, y, groups_b=range(60))
    assert apart.high - apart.low > 1.0


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((1, 5)), np.full((4, 5), np.nan), np.zeros((4, 0))])
def test_bad_sets_name_themselves(bad: np.ndarray) -> None:
    good = np.random.default_rng(0).normal(size=(4, 5))
    with pytest.raises(ValueError, match=r"^a "):
        frechet_distance(bad, good)
    with pytest.raises(ValueError, match=r"^b "):
        frechet_distance(good, bad)


def test_other_bad_arguments() -> None:
    good = np.random.default_rng(0).normal(size=(4, 5))
    with pytest.raises(ValueError, match="width"):
        frechet_distance(good, good[:, :4])
    with pytest.raises(ValueError, match="groups_a"):
        frechet_interval(good, good, groups_a=["x"])
    with pytest.raises(ValueError, match="paired"):
        frechet_interval(good, good[:3], paired=True)


def test_resampling_against_a_fixed_set_is_the_same_distance() -> None:
    rng = np.random.default_rng(7)
    a, b = gaussian(rng.normal(size=(30, 40))), gaussian(rng.normal(size=(50, 40)))
    assert frechet._to_fixed(a, b, frechet._root(b.covariance)) == pytest.approx(
        frechet_between(a, b), rel=1e-6
    )
