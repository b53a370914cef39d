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


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_pass_through_packed_weights(transposed: bool) -> None:
    x, weight, bias = tensors(12, 20, 7, 40)
    gradients = []
    for packed in (False, True):
        v = x.clone().requires_grad_()
        if transposed:
            w = weight.transpose(0, 1)
            y = ops.conv_transpose1d(
                v, ops.pack_conv_transpose1d(w, 4, "float32") if packed else w, bias, 4, 2
            )
        else:
            y = ops.conv1d(v, ops.pack_conv1d(weight, "float32") if packed else weight, bias, 9, 3)
        gradients += torch.autograd.grad(y.square().sum(), v)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def test_the_result_has_channels_last() -> None:
    x, weight, _ = tensors(8, 16, 3, 20)
    assert ops.conv1d(x, weight, padding=1).stride(1) == 1
    assert ops.conv_transpose1d(x, weight.transpose(0, 1), stride=3).stride(1) == 1


def test_kernels_wider_than_a_block() -> None:
    x, weight, bias = tensors(70, 40, 130, 150)
    exact = torch.nn.functional.conv1d(x.double(), weight.double(), bias.double(), padding=9)
    torch.testing.assert_close(ops.conv1d(x, weight, bias, 9).double(), exact, rtol=0, atol=3e-4)
    weight = weight.transpose(0, 1)
    exact = torch.nn.functional.conv_transpose1d(x.double(), weight.double(), bias.double(), 9, 4)
    torch.testing.assert_close(ops.conv_transpose1d(x, weight, bias, 9, 4).double(), exact, rtol=0, atol=3e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("steps", [40, 4133])
def test_channels_and_time_last_give_the_same_bits(dtype: torch.dtype, steps: int) -> None:
    x, weight, bias = (v.to(dtype) for v in tensors(70, 70, 7, steps))
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    for dilation in (1, 5):
        given = (weight[:, :1], bias, 3 * dilation, dilation)
        own = ops.depthwise_conv1d(x, *given)
        assert own.stride(2) == 1
        assert torch.equal(own, ops.depthwise_conv1d(turned, *given))
        if steps < 100:
            given = (weight, bias, 3 * dilation, dilation)
            assert torch.equal(ops.conv1d(x, *given), ops.conv1d(turned, *given))
