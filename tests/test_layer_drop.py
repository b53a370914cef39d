# SPDX-License-Identifier: Apache-2.0
"""Dropping layers: full budgets change nothing, budgets are checked, only what is handed on is copied."""

from __future__ import annotations

import importlib

import pytest
import torch

from prestissimo import ops


def hidden_states(L: int = 4, B: int = 3, T: int = 5, C: int = 8) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(B, T, C, generator=rng) * (l + 1) for l in range(L)]


@pytest.mark.parametrize("target", [None, torch.tensor([9.0, 9.0, 9.0])])
def test_full_depth_is_the_undropped_state_bit_for_bit(target: torch.Tensor | None) -> None:
    hidden = hidden_states()
    out, variance = ops.layer_drop(hidden, torch.tensor([4, 2, 4]), target)
    assert torch.equal(out[0], hidden[3][0])
    assert torch.equal(out[2], hidden[3][2])
    assert torch.equal(variance, ops.hidden_variance(torch.stack([hidden[3][0], hidden[1][1], hidden[3][2]])))


def test_a_block_handed_its_own_state_makes_the_undropped_result() -> None:
    """Two-layer network by hand: what enters the last block under a full budget is what entered it before."""
    block = torch.nn.Linear(8, 8)
    first = hidden_states(1)[0]
    second = first + block(first).tanh()
    out, _ = ops.layer_drop([first, second], torch.full((3,), 2))
    assert torch.equal(out + block(out).tanh(), second + block(second).tanh())


def test_rescaled_states_have_the_variance_asked_for() -> None:
    hidden, target = hidden_states(), torch.tensor([4.0, 0.5, 9.0])
    out, _ = ops.layer_drop(hidden, torch.tensor([1, 2, 3]), target)
    torch.testing.assert_close(ops.hidden_variance(out), target)


def test_a_constant_state_is_left_alone() -> None:
    hidden = [torch.ones(1, 2, 4), torch.zeros(1, 2, 4)]
    out, variance = ops.layer_drop(hidden, torch.tensor([1]), torch.tensor([2.0]))
    assert torch.equal(out, hidden[0])
    assert variance.tolist() == [0.0]


@pytest.mark.parametrize("budget", [[0, 1, 1], [1, 5, 1], [-1, 1, 1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_budgets_out_of_range(budget: list[int], dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="layer_drop: budget must be from 1 to 4, got"):
        ops.layer_drop([h.to(dtype) for h in hidden_states()], torch.tensor(budget))


def test_more_layers_than_a_launch_takes() -> None:
    with pytest.raises(ValueError, match="hidden must have"):
        ops.layer_drop(hidden_states(65, 1, 1, 2), torch.tensor([1]))


def test_layers_that_nobody_left_at_have_no_gradient() -> None:
    hidden = [h.requires_grad_() for h in hidden_states()]
    out, variance = ops.layer_drop(hidden, torch.tensor([4, 2, 4]))
    grads = torch.autograd.grad(out.sum() + variance.sum(), hidden)
    assert [bool(g.any()) for g in grads] == [False, True, False, True]
    assert [g.stride() == (0, 0, 0) for g in grads] == [True, False, True, False]  # no memory for them
    assert torch.equal(grads[1][0], torch.zeros(5, 8))


def test_budgets_that_are_not_on_the_cpu_are_not_read() -> None:
    """Reading them would wait for a GPU; the reference brings them into range, as the kernels do."""
    layer_drop = importlib.import_module("prestissimo.ops.layer_drop")
    elsewhere = [h.to("meta") for h in hidden_states()]
    layer_drop._check_values(elsewhere, torch.empty(3, dtype=torch.int64, device="meta"), None)
    hidden = [h.double() for h in hidden_states()]
    wrong, right = torch.tensor([0, 9, -3]), torch.tensor([1, 4, 1])
    target = torch.full((3,), 2.0, dtype=torch.float64)
    for one, two in zip(
        layer_drop._reference(hidden, wrong, target),
        layer_drop._reference(hidden, right, target),
        strict=True,
    ):
        assert torch.equal(one, two)
    dout, statistics = hidden[0].flip(0), layer_drop._reference(hidden, right, target)[2]
    gradients = [layer_drop.backward_reference(hidden, b, dout, target, statistics) for b in (wrong, right)]
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
