# SPDX-License-Identifier: Apache-2.0
"""What the table of ops does not ask of `linear`: equal bits across ISAs, memory, sharing, and the side path."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from prestissimo import ops
from prestissimo.ops.tolerance import assert_close

_core = pytest.importorskip("prestissimo._core")


@pytest.fixture(autouse=True)
def kernels_only() -> Iterator[None]:
    before = _core.isa()
    with ops.strict_kernels():
        yield
    _core.set_isa(before)


def example(M: int = 37, N: int = 75, K: int = 1100) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(M, K, generator=rng) + 0.3
    return x, torch.randn(N, K, generator=rng) * K**-0.5, torch.randn(N, generator=rng)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_gives_the_same_bits_on_every_isa(dtype: torch.dtype) -> None:
    x, weight, bias = (t.to(dtype) for t in example())
    results = {}
    for isa in _core.supported_isas():
        _core.set_isa(isa)
        packed = ops.pack_linear(weight, "int8")
        results[isa] = packed.data, ops.linear(x, packed, bias)
    first, *rest = results.values()
    for data, y in rest:
        assert torch.equal(data, first[0])
        assert torch.equal(y, first[1])


def test_int8_sums_are_exact() -> None:
    """Every value at its limit: -127 and 127 in x, -128 in the weight, whose sums are the largest there are."""
    x = torch.full((3, 1000), 127.0)
    x[1] = -127.0
    weight = torch.full((5, 1000), -128, dtype=torch.int8)
    for isa in _core.supported_isas():
        _core.set_isa(isa)
        y = ops.linear(x, ops.pack_linear(weight, "int8", scale=torch.ones(5)))
        assert torch.equal(y, x.sum(1, keepdim=True) * -128 * torch.ones(5))


@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_a_packed_weight_takes_its_own_size(dtype: str, item: int) -> None:
    packed = ops.pack_linear(torch.randn(1536, 1024), dtype)
    assert packed.data.numel() <= 1.01 * 1536 * 1024 * item
    assert packed.data.is_contiguous()


def test_a_dtype_is_a_name_or_torchs_own() -> None:
    _, weight, _ = example()
    named, torchs = (ops.pack_linear(weight, dtype) for dtype in ("int8", torch.int8))
    assert named.dtype == torchs.dtype
    assert torch.equal(named.data, torchs.data)
    with pytest.raises(
        ValueError, match="pack_linear: dtype must be 'float32', 'bfloat16' or 'int8', got 'float64'"
    ):
        ops.pack_linear(weight, torch.float64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_unpack_gives_the_weight_back(dtype: str) -> None:
    _, weight, _ = example()
    got = ops.pack_linear(weight, dtype).unpack()
    tolerance = {"float32": 0.0, "bfloat16": 2.0**-8, "int8": 0.5 / 127}[dtype]
    largest = weight.abs().amax(1, keepdim=True) if dtype == "int8" else weight.abs()
    assert ((got - weight).abs() <= 1.001 * tolerance * largest).all()


def test_an_int8_weight_keeps_its_values_and_scales() -> None:
    rng = torch.Generator().manual_seed(1)
    weight = torch.randint(-128, 128, (40, 33), generator=rng, dtype=torch.int8)
    scale = torch.rand(40, generator=rng)
    assert torch.equal(ops.pack_linear(weight, "int8", scale).unpack(), weight * scale[:, None])


def test_threads_share_one_packed_weight() -> None:
    x, weight, bias = example()
    packed = ops.pack_linear(weight, "bfloat16")
    before, expected = packed.data.clone(), ops.linear(x, packed, bias)
    wrong = []

    def work() -> None:
        for _ in range(20):
            if not torch.equal(ops.linear(x, packed, bias), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert torch.equal(packed.data, before)


@pytest.mark.parametrize("packing", ["", "float32", "bfloat16", "int8"])
def test_the_side_path_is_a_change_of_the_weight(packing: str) -> None:
    x, weight, _ = example(K=64)
    rng = torch.Generator().manual_seed(2)
    down, up = torch.randn(4, 64, generator=rng) * 0.1, torch.randn(75, 4, generator=rng) * 0.1
    packed = ops.pack_linear(weight, packing) if packing else weight
    apart = ops.linear(x, packed, None, down, up, 2.0) - ops.linear(x, packed)
    torch.testing.assert_close(apart, x @ (2.0 * up @ down).T, rtol=1e-4, atol=1e-4)


def test_training_a_side_path_leaves_a_packed_weight_alone() -> None:
    x, weight, _ = example(K=64)
    packed = ops.pack_linear(weight, "int8")
    down, up = torch.randn(4, 64) * 0.1, torch.zeros(75, 4)
    parameters = [down.requires_grad_(), up.requires_grad_()]
    before, target = packed.data.clone(), torch.randn(37, 75)
    losses = []
    optimizer = torch.optim.Adam(parameters, 1e-2)
    for _ in range(20):
        loss = (ops.linear(x, packed, None, down, up) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert torch.equal(packed.data, before)


def test_rows_beyond_what_is_packed_at_once() -> None:
    """8 MB of packed x at a time."""
    rng = torch.Generator().manual_seed(3)
    x, weight = torch.randn(5000, 1024, generator=rng), torch.randn(33, 1024, generator=rng)
    same, exact = x @ weight.T, x.double() @ weight.double().T
    assert_close(ops.linear(x, ops.pack_linear(weight, "float32")), same, exact)


def test_numpy_weights_of_any_strides() -> None:
    x = np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32)
    w = np.random.default_rng(1).standard_normal((40, 14)).astype(np.float32)
    packed = ops.pack_linear(w[::2].T, "float32")
    assert isinstance(packed.data, np.ndarray)
    np.testing.assert_allclose(ops.linear(x, packed), x @ w[::2], rtol=1e-5, atol=1e-5)


def test_linear_error_orders_the_packings() -> None:
    x, weight, _ = example()
    errors = [
        ops.linear_error(x, weight, ops.pack_linear(weight, d)) for d in ("float32", "bfloat16", "int8")
    ]
    assert errors[0] < 1e-6 < errors[1] < 4e-3 < errors[2] < 2e-2
