# SPDX-License-Identifier: Apache-2.0
"""Results above 12 MB, which some kernels store past the caches, or above 5, for whose next row adaln_modulate asks:
the sizes of the other tests are too small."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prestissimo import ops
from prestissimo.ops.adaln_modulate import reference as modulated
from prestissimo.ops.dynamic_threshold import reference as thresholded
from prestissimo.ops.qk_norm_rope import reference as rotated
from prestissimo.ops.tolerance import assert_close

pytest.importorskip("prestissimo._core")

STREAMED = 12 << 20  # kStreamBytes of csrc/cpu/storage.h
ASKED = 5 << 20  # kAskAbove of csrc/cpu/adaln_modulate.cpp
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(
    ("dtype", "norm", "pairing", "heads", "D", "r"),
    [
        (torch.float32, "rms", "half", 5, 64, 32),
        (torch.bfloat16, "layer", "interleaved", 8, 128, 64),
        (torch.float16, "rms", "half", 4, 64, 64),
    ],
)
def test_qk_norm_rope(dtype: torch.dtype, norm: str, pairing: str, heads: int, D: int, r: int) -> None:
    """Every half as alone, where it fits the caches, and the last rows as the reference has them."""
    rng = torch.Generator().manual_seed(D)
    T = STREAMED // (2 * heads * D * dtype.itemsize) + 3
    qkv = torch.randn(1, T, 3 * heads * D, generator=rng).to(dtype)
    angle = torch.rand(T, r // 2, generator=rng) * 6
    cos, sin = angle.cos(), angle.sin()
    weights = [torch.randn(D, generator=rng) + 1 for _ in range(2)]
    options: dict[str, Any] = {"heads": heads, "norm": norm, "pairing": pairing}
    with ops.strict_kernels():
        y = ops.qk_norm_rope(qkv, cos, sin, *weights, **options)
        assert sum(t.nbytes for t in y) > STREAMED
        for half in (slice(T // 2), slice(T // 2, T)):
            alone = ops.qk_norm_rope(qkv[:, half], cos[half], sin[half], *weights, **options)
            for one, two in zip(y, alone, strict=True):
                assert torch.equal(one[:, half], two)
    last = [qkv[:, -50:], cos[-50:], sin[-50:], *weights]
    same = rotated(*last, **options)
    exact = rotated(*(t.double() for t in last), **options)
    for one, s, e, name in zip(y, same, exact, ("q", "k"), strict=True):
        assert_close(one[:, -50:], s, e, name=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dynamic_threshold(dtype: torch.dtype) -> None:
    """Every sample as alone, where it fits the caches, and the last one as the reference has it."""
    size = 100_032  # whole cache lines, which storing past the caches takes
    B = STREAMED // (size * dtype.itemsize) + 1
    x = torch.randn(B, size, generator=torch.Generator().manual_seed(size)).to(dtype) * 2
    with ops.strict_kernels():
        y = ops.dynamic_threshold(x, 0.9)
        assert y.nbytes > STREAMED
        for together, sample in zip(y, x, strict=True):
            assert torch.equal(together[None], ops.dynamic_threshold(sample[None], 0.9))
    exact, _ = thresholded(x[-1:].double(), 0.9)
    assert_close(y[-1:], thresholded(x[-1:], 0.9)[0], exact)


@pytest.mark.parametrize("size", [ASKED, STREAMED])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adaln_modulate(dtype: torch.dtype, norm: str, size: int) -> None:
    """Every quarter of the rows as alone, where it is small enough to be stored as it comes, and the last ones as the
    reference has them; rows of a view with a gap between them too."""
    C, parts = 1504, 4
    T = size // (C * dtype.itemsize) // parts * parts + parts
    rng = torch.Generator().manual_seed(size)
    x = torch.randn(1, T, C + 32, generator=rng).to(dtype)[..., :C]
    shift, scale = (torch.randn(1, C, generator=rng).to(dtype) for _ in range(2))
    with ops.strict_kernels():
        y = ops.adaln_modulate(x, shift, scale, norm=norm)
        assert y.nbytes > size
        for one, part in zip(y.chunk(parts, 1), x.chunk(parts, 1), strict=True):
            assert torch.equal(one, ops.adaln_modulate(part, shift, scale, norm=norm))
    last = [x[:, -20:], shift, scale]
    exact = modulated(*(t.double() for t in last), norm=norm)
    assert_close(y[:, -20:], modulated(*last, norm=norm), exact)
