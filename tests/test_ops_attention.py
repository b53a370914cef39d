# SPDX-License-Identifier: Apache-2.0
"""What the table of ops does not ask of `attention`: torch's own kernels in its place, the work that a window saves."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from prestissimo import ops
from prestissimo.ops.attention_cases import ATTENTION_CASES
from prestissimo.ops.op_case import OpCase
from prestissimo.ops.tolerance import assert_close

attention = importlib.import_module("prestissimo.ops.attention")


@pytest.mark.parametrize("case", ATTENTION_CASES, ids=lambda c: c.id)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_own_attention_is_the_same(case: OpCase, dtype: torch.dtype) -> None:
    """What a GPU runs where torch serves."""
    for seed, shape in enumerate(case.small):
        arguments = case.make(shape, dtype, torch.Generator().manual_seed(seed))
        wide = {
            k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in arguments.items()
        }
        result = attention.scaled_dot_product(**arguments)
        assert_close(result, attention.reference(**arguments), attention.reference(**wide), name=f"{shape}")


@pytest.mark.parametrize(
    ("dtype", "head_dim", "changes", "served"),
    [
        (torch.bfloat16, 64, {}, True),
        (torch.bfloat16, 64, {"window": [3, -1]}, False),
        (torch.float16, 64, {"lengths": torch.tensor([3])}, False),
        (torch.float16, 128, {"mask": torch.ones(1, 4, dtype=torch.bool)}, False),
        (torch.float16, 64, {"q2": torch.zeros(1, 4, 1, 64)}, False),
        (torch.float32, 64, {"window": [3, -1]}, True),
        (torch.bfloat16, 136, {"window": [3, -1]}, True),
    ],
)
def test_who_serves_on_a_gpu(
    dtype: torch.dtype, head_dim: int, changes: dict[str, Any], served: bool
) -> None:
    q = torch.zeros(1, 4, 1, head_dim, dtype=dtype)
    rest: dict[str, Any] = dict.fromkeys(("q2", "k2", "mask", "lengths")) | {
        "window": [-1, -1],
        "scale": None,
    }
    assert attention._served_by_torch(q, q, q, **(rest | changes)) is served


def test_hidden_keys_may_hold_anything() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 7, 2, 16, generator=rng) for _ in range(3))
    mask = torch.rand(2, 7, generator=rng) < 0.5
    mask[:, 0] = True
    expected = ops.attention(q, k, v, mask=mask)
    k[~mask], v[~mask] = torch.inf, torch.nan
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    y = ops.attention(*leaves, mask=mask)
    assert torch.equal(y, expected)
    y.sum().backward()
    assert all(t.grad is not None and torch.isfinite(t.grad).all() for t in leaves)
