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

_core = pytest.importorskip("prestissimo._core")

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


# ---- the ops with a threshold ----------------------------------------------------------------------------------------

sigmoid = importlib.import_module("prestissimo.ops.sigmoid_topk")
transport = importlib.import_module("prestissimo.ops.ot_topk")
sparse = importlib.import_module("prestissimo.ops.sparse_topk")
THRESHOLDS: list[Any] = [
    pytest.param(sigmoid, {}, id="sigmoid"),
    pytest.param(transport, {"temperature": 2.0}, id="ot"),
    pytest.param(sparse, {"p": 2.0}, id="sparse-2"),
    pytest.param(sparse, {"p": 4 / 3}, id="sparse-4/3"),
    pytest.param(sparse, {"p": 1.1, "temperature": 0.2}, id="sparse-1.1"),
]


def public(module: Any) -> Any:
    return getattr(ops, module.__name__.rsplit(".", 1)[1])


@pytest.mark.parametrize(("module", "options"), THRESHOLDS)
@pytest.mark.parametrize(("length", "k"), [(1, 1), (2, 1), (9, 3), (64, 63), (200, 21), (4096, 64)])
@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0])
def test_rows_sum_to_k(module: Any, options: dict[str, Any], length: int, k: int, spread: float) -> None:
    y = public(module)(scores(5, length, spread=spread), k, **options)
    assert ((y >= 0) & (y <= 1)).all()
    # one rounding of the threshold moves the sum by the slope there, at most k / temperature, times the spread
    assert (y.double().sum(-1) - k).abs().max() <= 2e-6 * k * max(1.0, spread / 30)


@pytest.mark.usefixtures("isa")
def test_all_but_one_of_scores_far_apart() -> None:
    """Most values are nearly 1: their sum in float32 holds too few digits of what is missing to k. In lanes and in rows
    of their own; to three roundings of 1, less than eager's own error."""
    for length, spread in ((20, 30.0), (300, 30.0), (300, 2.0), (300, 300.0)):
        s = scores(8, length, spread=spread)
        exact = sigmoid.reference(s.double(), length - 1, None, None, 0.7, False, -1, None, None)[0]
        assert (ops.sigmoid_topk(s, length - 1, temperature=0.7) - exact).abs().max() < 3 * 2**-24


@pytest.mark.parametrize(("module", "options"), THRESHOLDS)
def test_threshold_backward_equals_autograd(module: Any, options: dict[str, Any]) -> None:
    """In float64, to 1e-9 of the largest gradient, autograd running through the search itself."""
    options = {"temperature": 1.0, **options}
    p = (options["p"],) if "p" in options else ()
    s = scores(6, 30, dtype=torch.float64).requires_grad_()
    g = scores(6, 30, dtype=torch.float64, seed=1)
    y, _ = module.reference(s, 4, None, None, options["temperature"], False, -1, None, None, *p)
    (auto,) = torch.autograd.grad(y, s, g)
    (closed,) = torch.autograd.grad(public(module)(s, 4, **options), s, g)
    assert (closed - auto).abs().max() <= 1e-9 * max(1.0, float(auto.abs().max()))


@pytest.mark.parametrize(("module", "options"), THRESHOLDS)
def test_all_or_none_of_a_row(module: Any, options: dict[str, Any]) -> None:
    op = public(module)
    s = scores(3, 6)
    s[0, 2] = s[1, 4] = s[1, 5] = -torch.inf
    s.requires_grad_()
    everything = op(s, 6, **options)
    assert torch.equal(everything, (s > -torch.inf).float())
    nothing = op(s, 0, **options)
    assert (nothing == 0).all()
    (everything.sum() + nothing.sum()).backward()
    assert (s.grad == 0).all()
    some = op(s.detach(), 3, **options)
    assert (some[s == -torch.inf] == 0).all()
    assert torch.allclose(some.sum(-1), torch.full((3,), 3.0))


@pytest.mark.parametrize(("module", "options"), THRESHOLDS)
def test_order_is_kept(module: Any, options: dict[str, Any]) -> None:
    s = scores(20, 50)
    y = public(module)(s, 7, **options)
    assert (y.gather(-1, s.argsort(-1)).diff() >= 0).all()
    chosen = torch.zeros_like(s).scatter(-1, s.topk(7)[1], 1.0)
    assert torch.equal(public(module)(s, 7, hard=True, **options), chosen)


def test_ot_topk_is_the_plan_of_sinkhorn() -> None:
    """Scaling rows and columns of the whole kernel matrix, as textbooks have it."""
    s, k, epsilon = scores(12, dtype=torch.float64), 4, 0.8
    kernel = torch.exp(-((s[:, None] - torch.tensor([0.0, 1.0], dtype=torch.float64)) ** 2) / epsilon)
    rows, columns = torch.full_like(s, 1 / 12), torch.tensor([8 / 12, 4 / 12], dtype=torch.float64)
    v = torch.ones(2, dtype=torch.float64)
    for _ in range(5000):
        u = rows / (kernel @ v)
        v = columns / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    assert (12 * plan[:, 1] - ops.ot_topk(s, k, temperature=epsilon)).abs().max() < 1e-9
    assert (12 * plan[:, 1] - ops.ot_topk(s.float(), k, temperature=epsilon)).abs().max() < 1e-5


def pool_adjacent_violators(s: np.ndarray, k: int, weight: float, p: float) -> np.ndarray:
    """Sander et al.: the dual of the mask of the k largest, by isotonic regression over the sorted scores."""
    q = 1 / (p - 1)
    order = np.argsort(-s, kind="stable")
    z, w = s[order], (np.arange(len(s)) < k).astype(float)

    def solve(block: slice) -> float:
        """The v with sum of ((z - v)+ / weight)^q over the block equal to that of w, by bisection."""
        low, high = z[block].min() - weight * len(s), z[block].max()
        for _ in range(200):
            middle = (low + high) / 2
            total = (np.clip((z[block] - middle) / weight, 0, None) ** q).sum()
            low, high = (middle, high) if total > w[block].sum() else (low, middle)
        return (low + high) / 2

    blocks: list[tuple[slice, float]] = []
    for i in range(len(s)):
        blocks.append((slice(i, i + 1), solve(slice(i, i + 1))))
        while len(blocks) > 1 and blocks[-2][1] < blocks[-1][1]:
            merged = slice(blocks[-2][0].start, blocks[-1][0].stop)
            blocks[-2:] = [(merged, solve(merged))]
    v = np.concatenate([np.full(b.stop - b.start, value) for b, value in blocks])
    out = np.empty_like(s)
    out[order] = np.clip((z - v) / weight, 0, None) ** q
    return out


@pytest.mark.parametrize("p", [2.0, 4 / 3, 1.6])
@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0])
def test_sparse_topk_is_the_isotonic_regression(p: float, weight: float) -> None:
    for seed in range(5):
        s = scores(25, dtype=torch.float64, seed=seed)
        pooled = pool_adjacent_violators(s.numpy(), 6, weight, p)
        assert np.abs(ops.sparse_topk(s, 6, temperature=weight, p=p).numpy() - pooled).max() < 1e-7
        single = ops.sparse_topk(s.float(), 6, temperature=weight, p=p).numpy()
        assert np.abs(single - pooled).max() < 1e-5 / min(weight, 1.0)


def test_sparse_topk_is_sparse() -> None:
    y = ops.sparse_topk(scores(10, 1000), 10, temperature=0.1)
    assert ((y == 0) | (y == 1)).float().mean() > 0.98


def test_ties_at_a_bound_have_no_gradient() -> None:
    """Tied scores that the clamp just lets reach 1: rounding must not set them free."""
    s = torch.tensor([[1.0, 1.0, -0.5, -0.5]], requires_grad=True)
    ops.sparse_topk(s, 2).backward(torch.tensor([[1.0, 2.0, 3.0, 5.0]]))
    assert (s.grad == 0).all()
