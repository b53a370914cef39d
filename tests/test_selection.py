# SPDX-License-Identifier: Apache-2.0
"""What the top-k ops promise beyond agreement with their references."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prestissimo import ops
from prestissimo.ops.tolerance import assert_close, assert_close_but_at_jumps

pytest.importorskip("prestissimo._core")

relaxed = importlib.import_module("prestissimo.ops.relaxed_topk")


def scores(*shape: int, spread: float = 2.0, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=rng, dtype=torch.float64) * spread + 1).to(dtype)


# ---- relaxed_topk ----------------------------------------------------------------------------------------------------


def as_published(a: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """The loop of the paper's code, with 1 - p as it stands there."""
    tiny = torch.tensor(2.0**-126, dtype=a.dtype)
    p = torch.zeros_like(a)
    khot = torch.zeros_like(a)
    for _ in range(k):
        a = a + torch.log(torch.maximum(1 - p, tiny))
        p = torch.softmax(a / temperature, dim=-1)
        khot = khot + p
    return khot


@pytest.mark.parametrize(("length", "k"), [(1, 1), (2, 5), (9, 3), (40, 21), (200, 64)])
def test_relaxed_topk_is_the_published_operator(length: int, k: int) -> None:
    s = scores(6, length, spread=1.5, dtype=torch.float64)
    published, ours = as_published(s, k), relaxed.reference(s, k)
    if length == 1:
        assert torch.equal(published, ours)
    assert (published - ours).abs().max() < 1e-11


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
@pytest.mark.parametrize(("length", "k"), [(1, 3), (2, 1), (3, 8), (17, 5), (200, 21), (400, 64)])
def test_relaxed_topk_backward_equals_autograd(length: int, k: int, temperature: float) -> None:
    """In float64, to 1e-9 of the largest gradient: through the reference, and through the paper's own loop."""
    s = scores(4, length, dtype=torch.float64).requires_grad_()
    g = scores(4, length, dtype=torch.float64, seed=1)
    closed = relaxed.backward_reference(g, s.detach(), k, None, None, temperature, None)
    (auto,) = torch.autograd.grad(relaxed.reference(s, k, temperature=temperature), s, g)
    (through_op,) = torch.autograd.grad(ops.relaxed_topk(s, k, temperature=temperature), s, g)
    scale = max(1.0, float(auto.abs().max()))
    assert (closed - auto).abs().max() <= 1e-9 * scale
    assert torch.equal(closed, through_op)
    if temperature == 1.0 and length > 1:
        (published,) = torch.autograd.grad(as_published(s, k), s, g)
        assert (closed - published).abs().max() <= 1e-9 * scale


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0, 40.0, 120.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("length", [1, 2, 3, 20, 100])
def test_relaxed_topk_far_apart(spread: float, temperature: float, length: int) -> None:
    """Scores whose weights float32 cannot hold at once, and more steps than scores."""
    s = scores(8, length, spread=spread).requires_grad_()
    same, exact = s.detach().clone().requires_grad_(), s.detach().double().requires_grad_()
    g = scores(8, length, seed=2)
    k = 7
    y = ops.relaxed_topk(s, k, temperature=temperature)
    y_same = relaxed.reference(same, k, temperature=temperature)
    y_exact = relaxed.reference(exact, k, temperature=temperature)
    assert_close(y.detach(), y_same.detach(), y_exact.detach())
    torch.autograd.backward([y, y_same, y_exact], [g, g, g.double()])
    assert_close(s.grad, same.grad, exact.grad, gradient=True)
    assert (y.sum(-1) - k).abs().max() < 1e-5


def test_relaxed_topk_properties() -> None:
    s = scores(5, 33)
    assert torch.allclose(ops.relaxed_topk(s, 1), torch.softmax(s, -1), atol=1e-6)
    assert (ops.relaxed_topk(s, 0) == 0).all()
    order = torch.randperm(33, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(
        ops.relaxed_topk(s, 4)[:, order], ops.relaxed_topk(s[:, order].contiguous(), 4), atol=1e-6
    )
    apart = s.argsort(-1).float()  # whole numbers
    chosen = torch.zeros_like(s).scatter(-1, apart.topk(4)[1], 1.0)
    assert torch.allclose(ops.relaxed_topk(apart, 4, temperature=0.05), chosen, atol=1e-6)


def test_rows_of_any_length_equal_rows_alone() -> None:
    """Empty rows, single ones and long ones, k of each its own: each as if it were alone."""
    lengths = torch.tensor([0, 1, 200, 0, 2, 17, 16, 3, 1, 64, 0])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    k = torch.tensor([1, 3, 21, 2, 0, 2, 5, 4, 1, 64, 7])
    s = scores(int(lengths.sum()))
    y = ops.relaxed_topk(s, k, offsets)
    for r in range(len(lengths)):
        row = slice(int(offsets[r]), int(offsets[r + 1]))
        if lengths[r]:
            assert torch.equal(y[row], ops.relaxed_topk(s[row], int(k[r])))
            assert abs(float(y[row].sum()) - int(k[r])) < 1e-5 * max(1, int(k[r]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": torch.tensor([1, 4, 6])}, "offsets must begin with 0, got 1"),
        ({"offsets": torch.tensor([0, 4, 5])}, "offsets must end with the number of scores, 6, got 5"),
        ({"offsets": torch.tensor([0, 7, 6])}, "offsets must not decrease, got 6 after 7"),
        ({"k": torch.tensor([2, 65])}, "k must be from 0 to 64, got 65 at row 1"),
        ({"k": 65}, "k must be from 0 to 64, got 65"),
        ({"slots": torch.tensor([2, -1])}, "slots must be from 0 to"),
    ],
)
def test_values_are_checked(change: dict[str, Any], message: str) -> None:
    good = {"scores": scores(6), "k": 2, "offsets": torch.tensor([0, 4, 6])}
    ops.relaxed_topk(**good)
    with pytest.raises(ValueError, match=f"^relaxed_topk: {message}"):
        ops.relaxed_topk(**{**good, **change})


# ---- noise, and hard selection ---------------------------------------------------------------------------------------


def test_seed_adds_gumbel_noise() -> None:
    s = scores(3, 40)
    noise = ops.philox_gumbel((3, 40), [9], stream=4)[0]
    assert torch.equal(ops.relaxed_topk(s, 3, seed=9, stream=4), ops.relaxed_topk(s + noise, 3))
    assert not torch.equal(ops.relaxed_topk(s, 3, seed=9, stream=5), ops.relaxed_topk(s + noise, 3))


def test_gumbel_noise_samples_the_softmax() -> None:
    """The largest of logits + noise falls on each with its probability: chi-squared over 200 000 draws."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    draws = 200_000
    chosen = (logits + ops.philox_gumbel((draws, 5), [123])[0]).argmax(-1)
    expected = torch.softmax(logits, 0) * draws
    chi2 = float(((torch.bincount(chosen, minlength=5) - expected) ** 2 / expected).sum())
    assert chi2 < 18.5  # 0.999 of 4 degrees of freedom


def test_gumbel_noise_has_its_distribution() -> None:
    from scipy import stats

    g = ops.philox_gumbel((400_000,), [5])[0].numpy()
    assert stats.kstest(g, "gumbel_r").pvalue > 1e-3
    assert abs(g.mean() - np.euler_gamma) < 0.01
    assert np.isfinite(g).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hard_selects_the_highest(dtype: torch.dtype) -> None:
    s = scores(50, 30, dtype=dtype)
    s[:, 5] = s[:, 9]  # ties go to the first
    y = ops.relaxed_topk(s, 4, hard=True)
    order = s.float().sort(dim=-1, descending=True, stable=True)[1][:, :4]
    assert torch.equal(y.float(), torch.zeros(50, 30).scatter(-1, order, 1.0))
    assert (ops.relaxed_topk(s, 3, hard=True, slots=2).sum(-1) == 2).all()
    assert (ops.relaxed_topk(s, 3, hard=True, slots=40) == 1).all()
    assert (ops.relaxed_topk(s, 3, hard=True, slots=0) == 0).all()


def test_hard_looks_at_scores_where_soft_values_are_equal() -> None:
    """What the softmaxes never reach has the soft value 0; the higher score is still the better."""
    s = torch.tensor([[-500.0, 0.0, -300.0, 400.0, -400.0]])
    assert ops.relaxed_topk(s, 3, hard=True).tolist() == [[0.0, 1.0, 1.0, 1.0, 0.0]]
    equal = torch.zeros(1, 70)
    assert torch.equal(ops.relaxed_topk(equal, 5, hard=True).nonzero()[:, 1], torch.arange(5))


def test_hard_has_the_gradient_of_soft() -> None:
    g = scores(4, 20, seed=1)
    gradients = []
    for hard in (False, True):
        s = scores(4, 20).requires_grad_()
        ops.relaxed_topk(s, 3, hard=hard, slots=1, seed=3).backward(g)
        gradients.append(s.grad)
    assert torch.equal(*gradients)


def test_one_dimension_is_one_row() -> None:
    s = scores(12)
    assert torch.equal(ops.relaxed_topk(s, 3), ops.relaxed_topk(s[None], 3)[0])
    wide = scores(2, 3, 12)
    k = torch.arange(6).reshape(2, 3)
    y = ops.relaxed_topk(wide, k)
    assert y.shape == wide.shape
    assert torch.allclose(y.sum(-1), k.float(), atol=1e-5)


# ---- the boundary band -----------------------------------------------------------------------------------------------


def test_values_may_flip_at_their_jump_only_in_pairs() -> None:
    exact = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    distance = torch.tensor([1e-9, 1e-9, 0.5, 0.5], dtype=torch.float64)
    check = lambda *values: assert_close_but_at_jumps(  # noqa: E731
        torch.tensor(values), exact.float(), exact, distance.float(), distance
    )
    check(1.0, 0.0, 1.0, 0.0)
    check(0.0, 1.0, 1.0, 0.0)
    for wrong, message in [
        ((0.0, 0.0, 1.0, 0.0), "0 values flipped up and 1 down"),
        ((0.5, 0.5, 1.0, 0.0), "neither 0 nor 1"),
        ((1.0, 0.0, 0.0, 1.0), "exceeds"),
    ]:
        with pytest.raises(AssertionError, match=message):
            check(*wrong)
