# SPDX-License-Identifier: Apache-2.0
"""`dynamic_threshold` where its guess of the quantile from a few elements fails, and where its gradient cancels."""

from __future__ import annotations

import importlib

import pytest
import torch

from prestissimo import ops

op = importlib.import_module("prestissimo.ops.dynamic_threshold")
_core = pytest.importorskip("prestissimo._core")
PROBES = 1024  # kProbes of csrc/cpu/dynamic_threshold.cpp: every size / PROBES-th element is looked at first


def normal(size: int) -> torch.Tensor:
    return torch.randn(1, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("size", [8 * PROBES, 8 * PROBES + 5])
@pytest.mark.parametrize("probed", [1e-3, 1e3, float("inf"), float("nan")])
@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.9, 1.0])
def test_the_quantile_is_exact_whatever_is_probed(size: int, probed: float, quantile: float) -> None:
    x = normal(size)
    x[0, [i * size // PROBES for i in range(PROBES)]] *= probed
    with ops.strict_kernels():
        _, levels = op._op(x, quantile, 1.0)
    _, expected = op.reference(x, quantile, 1.0)
    assert torch.equal(levels.nan_to_num(nan=-1.0), expected.nan_to_num(nan=-1.0))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("quantile", "size"), [(0.7, 91), (0.7, 181), (0.29, 101), (0.57, 101)])
def test_where_the_quantile_all_but_meets_an_element(quantile: float, size: int) -> None:
    """quantile (size - 1) is just below a whole number: the level rounds to the upper element, which is not clipped."""
    x, dy = normal(size), normal(size + 1)[:, 1:].contiguous()
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    with ops.strict_kernels():
        ops.dynamic_threshold(leaf, quantile, 1e-3).backward(dy)
    op.reference(exact, quantile, 1e-3)[0].backward(dy.double())
    assert leaf.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=2e-5, rtol=2e-5)


@pytest.mark.usefixtures("isa")
def test_a_gradient_that_cancels_keeps_its_digits() -> None:
    """Σ dy·x is a thousandth of what rounding of single products and sums leaves of it."""
    x, dy = normal(20000), normal(20001)[:, 1:]
    dy = dy.contiguous()
    with ops.strict_kernels():
        _, levels = op._op(x, 0.9, 0.1)
        inside = x.abs() <= (levels[:, :1] + 0.1 * (levels[:, 1:] - levels[:, :1]))
        product = (dy.double() * x.double() * inside).sum()
        i = int(inside[0].nonzero()[0])
        dy[0, i] -= product / x[0, i]
        leaf = x.clone().requires_grad_()
        ops.dynamic_threshold(leaf, 0.9, 0.1).backward(dy)
    exact = x.double().requires_grad_()
    op.reference(exact, 0.9, 0.1)[0].backward(dy.double())
    assert leaf.grad is not None
    assert exact.grad is not None
    order = x.abs().argsort(dim=1, stable=True)[0]
    pulled = order[[int(0.9 * 19999), int(0.9 * 19999) + 1]]
    error = (leaf.grad.double() - exact.grad)[0, pulled].abs().max()
    assert error <= 2.0**-24 * dy[0, pulled].abs().max()


@pytest.mark.parametrize("floor", [0.0, -1.0, 1e-50, 1e39, float("inf"), float("nan")])
def test_a_floor_that_is_no_positive_finite_float32(floor: float) -> None:
    x = normal(8)
    for each in (x, x.double(), x.numpy()):
        with pytest.raises(
            ValueError, match="dynamic_threshold: floor must be positive and finite as float32"
        ):
            ops.dynamic_threshold(each, 0.9, floor)
    scratch, levels = torch.empty(op.HISTOGRAM_WORDS, dtype=torch.int32), torch.empty(1, 2)
    with pytest.raises(ValueError, match="dynamic_threshold: floor must be positive and finite as float32"):
        _core.dynamic_threshold(x, 0.9, floor, scratch, torch.empty_like(x), levels)


@pytest.mark.parametrize("floor", [op.LEAST_FLOOR, op.MOST_FLOOR])
def test_the_least_and_the_largest_floor(floor: float) -> None:
    x = normal(8)
    _, levels = op.reference(x, 0.9, floor)
    y = ops.dynamic_threshold(x, 0.9, floor)
    assert torch.isfinite(y).all()
    assert bool((y.abs() < 1).all()) == (floor > levels.max())
