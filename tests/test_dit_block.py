# SPDX-License-Identifier: Apache-2.0
"""What the table of ops does not ask of `dit_block`: the bits of the composed ops, its memory, threads, and nn.DiT."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from prestissimo import ops
from prestissimo.nn import DiT, DiTConfig
from prestissimo.nn.rope import rope_tables
from prestissimo.ops.cases import CASES

pytest.importorskip("prestissimo._core")
dit_block = importlib.import_module("prestissimo.ops.dit_block")
plan = importlib.import_module("prestissimo.ops.dit_block_plan")
BLOCKS = [case for case in CASES if case.name == "dit_block"]
blocks = pytest.mark.parametrize("case", BLOCKS, ids=lambda c: c.variant)
SHAPE = (2, 33, 4, 16, 40, 7)


def arguments(case: Any, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = case.make(shape, case.dtypes[0], torch.Generator().manual_seed(seed))
    return made


@blocks
def test_equal_to_the_ops_one_after_another(case: Any) -> None:
    """Of two sizes in turn, which share memory."""
    with ops.strict_kernels():
        for shape in (SHAPE, (1, 20, 4, 16, 40, 7), SHAPE):
            a = arguments(case, shape)
            want = dit_block.composed(dit_block._BY_OPS, *case.overload_arguments(a))
            assert torch.equal(case.op(**a), want)


@blocks
def test_nothing_is_allocated_but_the_result(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = arguments(case), arguments(case, (1, 20, 4, 16, 40, 7))
    for a in (first, second):
        case.op(**a)
    made = []

    def new_empty(like: Any, shape: Any, dtype: str | None = None) -> Any:
        made.append(tuple(shape))
        return ops.registration.new_empty(like, shape, dtype)

    for module in (dit_block, plan):
        monkeypatch.setattr(module, "new_empty", new_empty)
    for a in (first, second, first):
        case.op(**a)
    assert made == [tuple(a["x"].shape) for a in (first, second, first)]


def test_what_a_thread_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BLOCKS[0]

    def all_sizes() -> list[Tensor]:
        return [case.op(**arguments(case, (1, T, 2, 4, 5, 3))) for T in range(1, 30)]

    kept = all_sizes()
    plans = plan.plans
    assert len(plans.plans) <= plan.KEPT_PLANS
    assert {id(p.memory) for p in plans.plans.values()} == {id(plans.memory["torch"])}
    plans.plans.clear()
    plans.memory.clear()
    monkeypatch.setattr(plan, "KEPT_BYTES", 0)
    assert all(torch.equal(a, b) for a, b in zip(kept, all_sizes(), strict=True))
    assert not plans.plans
    assert not plans.memory


def test_threads_have_memory_of_their_own() -> None:
    case = BLOCKS[0]
    given = [arguments(case, seed=i) for i in range(8)]
    alone = [case.op(**a) for a in given]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            together = list(pool.map(lambda a: case.op(**a), given))
            assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_ops(dtype: torch.dtype) -> None:
    case = BLOCKS[0]
    gradients = []
    for f in (
        case.op,
        lambda **a: case.op(**a, recompute=True),
        lambda **a: dit_block.composed(dit_block._BY_OPS, *case.overload_arguments(a)),
    ):
        a = case.make(SHAPE, dtype, torch.Generator().manual_seed(0))
        leaves = [a[name].requires_grad_() for name in case.gradients]
        f(**a).float().square().sum().backward()
        gradients.append([t.grad for t in leaves])
    assert all(torch.equal(x, y) and torch.equal(y, z) for x, y, z in zip(*gradients, strict=True))


def test_what_the_backward_keeps() -> None:
    """All that the ops record, or the inputs alone."""
    case = BLOCKS[0]
    kept = []
    for recompute in (False, True):
        a = case.make(SHAPE, torch.float32, torch.Generator().manual_seed(0))
        inputs = {t.untyped_storage().data_ptr() for t in a.values() if isinstance(t, Tensor)}
        a["x"].requires_grad_()
        saved: list[Tensor] = []

        def keep(t: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(t)
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            case.op(**a, recompute=recompute)
        kept.append({t.untyped_storage().data_ptr() for t in saved} - inputs)
    assert len(kept[0]) > 10
    assert not kept[1]


def test_a_block_of_the_transformer() -> None:
    """DiTBlock of nn/dit.py on the same weights."""
    torch.manual_seed(0)
    config = DiTConfig(latent_channels=4, width=48, depth=1, heads=3, ff_inner=40, text_dim=12, features=16)
    block = DiT(config).blocks[0]
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, modulation = torch.randn(2, 19, 48), torch.randn(2, 6, 48)
    rope = rope_tables(19, 16)
    k, v, mask = (
        torch.randn(2, 5, 3, 16),
        torch.randn(2, 5, 3, 16),
        torch.tensor([[True] * 5, [True, True] + [False] * 3]),
    )
    own, cross, forward = block.self_attention, block.cross_attention, block.feed_forward
    weights = ops.DiTBlockWeights(
        qkv=own.qkv.weight,
        out=own.out.weight,
        expand=forward.expand.weight,
        contract=forward.contract.weight,
        cross_q=cross.q.weight,
        cross_out=cross.out.weight,
        cross_weight=block.cross_norm,
        q_weight=own.q_norm,
        k_weight=own.k_norm,
        q_cross_weight=cross.q_norm,
    )
    with torch.no_grad():
        modulated = block.modulation(modulation, torch.float32)
        got = ops.dit_block(x, weights, 3, torch.stack(modulated, 1), *rope, k, v, mask, qk_norm="rms")
        network = DiT(config)
        network.kernels = "auto"
        y = ops.adaln_modulate(x, *modulated[:2], eps=block.eps, norm=block.norm)
        want, _ = block(x, y, modulated, rope, (k, v, mask), modulated[:2], network)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
