# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from prestissimo.metrics.mmd import mmd
from prestissimo.metrics.prdc import prdc

RNG = np.random.default_rng(0)


def test_mmd_of_two_points_by_hand() -> None:
    # a = {0, 0}, b = {d, d}: 1 + 1 - 2 exp(-d^2 / 2 s^2)
    a, b = np.zeros((2, 1)), np.full((2, 1), 3.0)
    assert mmd(a, b, bandwidth=2.0, scale=1.0) == pytest.approx(2 - 2 * np.exp(-9 / 8))


def test_mmd_of_gaussians_has_a_closed_form() -> None:
    # E k(x, y) for x, y of variance 1 and means m apart, in d dimensions, kernel width s:
    # (s^2 / (s^2 + 2))^(d/2) exp(-m^2 / (2 (s^2 + 2)))
    d, s, m = 4, 3.0, 2.0
    shift = np.zeros(d)
    shift[0] = m
    factor = (s**2 / (s**2 + 2)) ** (d / 2)
    expected = 2 * factor * (1 - np.exp(-(m**2) / (2 * (s**2 + 2))))
    got = mmd(RNG.normal(size=(3_000, d)), RNG.normal(size=(3_000, d)) + shift, bandwidth=s, scale=1.0)
    assert got == pytest.approx(expected, rel=0.05)


def test_mmd_is_zero_only_for_equal_sets() -> None:
    x = RNG.normal(size=(50, 8))
    assert mmd(x, x) == pytest.approx(0, abs=1e-9)
    assert mmd(x, x + 1) > 1


def test_prdc_by_hand() -> None:
    # reals 0, 1, 2, 10 with k = 1: radii 1, 1, 1, 8; fakes 0.5, 1.5, 100, 101: radii 1, 1, 1, 1
    real = np.array([[0.0], [1.0], [2.0], [10.0]])
    fake = np.array([[0.5], [1.5], [100.0], [101.0]])
    found = prdc(real, fake, k=1)
    assert found.precision == 2 / 4
    assert found.recall == 3 / 4
    assert found.density == (2 + 2) / 4  # 0.5 lies in the balls of 0 and 1; 1.5 in those of 1 and 2
    assert found.coverage == 3 / 4
    # 1.5 lies 8.5 from the real at 10, outside its radius of 8
    assert prdc(real, np.array([[2.0], [2.5], [100.0], [101.0]]), k=1).coverage == 3 / 4


def test_one_distribution_has_the_known_expectations() -> None:
    real, fake = RNG.normal(size=(1_500, 4)), RNG.normal(size=(1_500, 4))
    found = prdc(real, fake)
    assert found.density == pytest.approx(1, abs=0.06)
    assert found.coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_collapse_and_outliers_show_where_they_should() -> None:
    real = RNG.normal(size=(400, 4))
    collapsed = 0.05 * RNG.normal(size=(400, 4))
    found = prdc(real, collapsed)
    assert found.precision > 0.95
    assert found.recall < 0.1
    assert found.coverage < 0.2
    wild = prdc(real, 30 * RNG.normal(size=(400, 4)))
    assert wild.precision < 0.05
    assert wild.density < 0.05


def test_agrees_with_loops() -> None:
    real, fake, k = RNG.normal(size=(30, 3)), 0.5 + RNG.normal(size=(25, 3)), 3

    def radii(points: np.ndarray) -> np.ndarray:
        return np.array([sorted(np.linalg.norm(points - p, axis=1))[k] for p in points])

    r, f = radii(real), radii(fake)
    inside = np.array([[np.linalg.norm(x - y) <= r[i] for y in fake] for i, x in enumerate(real)])
    recall = np.mean([any(np.linalg.norm(x - y) <= f[j] for j, y in enumerate(fake)) for x in real])
    expected = (inside.any(0).mean(), recall, inside.sum() / (k * 25), inside.any(1).mean())
    assert prdc(real, fake, k) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [mmd, prdc])
def test_bad_sets(measure: object) -> None:
    good = RNG.normal(size=(9, 3))
    with pytest.raises(ValueError, match="must be"):
        measure(good[0], good)  # type: ignore[operator]
    with pytest.raises(ValueError, match="NaN"):
        measure(good, good * np.nan)  # type: ignore[operator]
    with pytest.raises(ValueError, match="one width"):
        measure(good, good[:, :2])  # type: ignore[operator]


def test_bad_numbers() -> None:
    good = RNG.normal(size=(9, 3))
    with pytest.raises(ValueError, match="bandwidth"):
        mmd(good, good, bandwidth=0)
    with pytest.raises(ValueError, match="k must be"):
        prdc(good, good, k=9)
