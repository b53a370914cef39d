# SPDX-License-Identifier: Apache-2.0
"""Convolutions on packed weights: the values of dense ones up to what the products round away; errors; gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prestissimo import ops

pytest.importorskip("prestissimo._core")
LOST = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 2e-2}  # relative to the largest output


def tensors(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    C, O, K, T = shape
    return torch.randn(2, C, T, generator=g), torch.randn(O, C, K, generator=g), torch.randn(O, generator=g)


@pytest.mark.parametrize("dtype", LOST)
@pytest.mark.parametrize(("kernel", "dilation"), [(7, 1), (7, 9), (1, 1)])
def test_conv1d(dtype: str, kernel: int, dilation: int) -> None:
    x, weight, bias = tensors(24, 40, kernel, 70)
    padding = dilation * (kernel // 2)
    dense = ops.conv1d(x, weight, bias, padding, dilation)
    packed = ops.conv1d(x, ops.pack_conv1d(weight, dtype), bias, padding, dilation)
    assert (packed - dense).abs().max() < LOST[dtype] * dense.abs().max()
    with pytest.raises(ValueError, match="x must have 24 channels"):
        ops.conv1d(x[:, :5], ops.pack_conv1d(weight, dtype), bias, padding, dilation)


@pytest.mark.parametrize("dtype", LOST)
@pytest.mark.parametrize("stride", [2, 5, 8])
def test_conv_transpose1d(dtype: str, stride: int) -> None:
    x, weight, bias = tensors(24, 16, 2 * stride, 33)
    weight = weight.transpose(0, 1)
    dense = ops.conv_transpose1d(x, weight, bias, stride, -(-stride // 2))
    packed = ops.pack_conv_transpose1d(weight, stride, dtype)
    y = ops.conv_transpose1d(x, packed, bias, stride, -(-stride // 2))
    assert (y - dense).abs().max() < LOST[dtype] * dense.abs().max()
    with pytest.raises(ValueError, match=f"packed for stride {stride}"):
        ops.conv_transpose1d(x, packed, bias, stride + 1)


def test_gradients_pass_through_packed_weights() -> None:
    x, weight, bias = tensors(12, 20, 7, 40)
    up = weight.transpose(0, 1)
    for dense, packed in (
        (lambda x: ops.conv1d(x, weight, bias, 9, 3), lambda x, w=ops.pack_conv1d(weight, "float32"): ops.conv1d(x, w, bias, 9, 3)),
        (lambda x: ops.conv_transpose1d(x, up, bias, 4, 2), lambda x, w=ops.pack_conv_transpose1d(up, 4, "float32"): ops.conv_transpose1d(x, w, bias, 4, 2)),
    ):  # fmt: skip
        got, want = (
            torch.autograd.grad(f(v).square().sum(), v)[0]
            for f in (packed, dense)
            for v in [x.clone().requires_grad_()]
        )
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


def test_the_result_has_channels_last() -> None:
    x, weight, _ = tensors(8, 16, 3, 20)
    assert ops.conv1d(x, weight, padding=1).stride(1) == 1
    assert ops.conv_transpose1d(x, weight.transpose(0, 1), stride=3).stride(1) == 1
