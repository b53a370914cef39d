# SPDX-License-Identifier: Apache-2.0
"""Networks for inference on the CPU: the weights of their linear layers packed once, for `ops.linear`."""

from __future__ import annotations

import threading
from typing import TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from prestissimo import ops
from prestissimo.nn.layers import Kernels, WideLinear

__all__ = ["PackedLinear", "pack_linears", "parameter_count", "plain_linears"]

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_shared: WeakValueDictionary[tuple[str, ...], Tensor] = WeakValueDictionary()
_lock = threading.Lock()


class PackedLinear(Kernels):
    """What an `nn.Linear` computes, of a packed weight alone: not differentiable in the weight.

    Any number of threads may call it at once. shared_as: layers packed under one name hold one copy of the weight.
    """

    data: Tensor
    bias: Tensor | None

    @torch.inference_mode(False)
    def __init__(self, layer: nn.Linear, kernels: str = "auto", shared_as: str | None = None) -> None:
        super().__init__(kernels)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        # WideLinear computes in float32 whatever its weight was rounded to
        self.dtype = "float32" if isinstance(layer, WideLinear) else _DTYPES[weight.dtype]
        key = None if shared_as is None else (shared_as, str(weight.dtype), self.dtype)
        with _lock:
            data = None if key is None else _shared.get(key)
            if data is None:
                data = ops.pack_linear(weight, self.dtype).data
                if key is not None:
                    _shared[key] = data
        self.register_buffer("data", data)
        number = getattr(torch, self.dtype)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().to(number))

    @property
    def packed(self) -> ops.PackedWeight:
        return ops.PackedWeight(self.data, self.dtype, self.out_features, self.in_features)

    @property
    def weight(self) -> Tensor:
        """The weight (out_features, in_features) as it stands after rounding; made anew each time."""
        return self.packed.unpack(getattr(torch, self.dtype))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.dtype}, bias={self.bias is not None}"

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x, self.packed, self.bias)


_Network = TypeVar("_Network", bound=nn.Module)


def pack_linears(network: _Network, shared_as: str | None = None) -> _Network:
    """Put a `PackedLinear` in the place of every linear layer, one by one: the plain weights go as the packed come.

    For networks on the CPU in float32 or bfloat16 that will not be trained any more; others stay as they are. Outputs
    differ by rounding. shared_as names the weights (a digest of them): networks packed under one name share memory.
    """
    for place, module in list(network.named_modules()):
        for name, layer in module.named_children():
            if (
                isinstance(layer, nn.Linear)
                and layer.weight.device.type == "cpu"
                and layer.weight.dtype in _DTYPES
            ):
                key = None if shared_as is None else f"{shared_as}:{place}.{name}"
                setattr(module, name, PackedLinear(layer, shared_as=key))
    if isinstance(network, Kernels):
        network.kernels = network.kernels  # of the new layers too
    return network


def plain_linears(network: nn.Module) -> list[str]:
    """The names of the linear layers that are not packed."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]


def parameter_count(network: nn.Module) -> int:
    """Of all parameters, those of packed layers included."""
    count = sum(p.numel() for p in network.parameters())
    for layer in network.modules():
        if isinstance(layer, PackedLinear):
            count += layer.out_features * (layer.in_features + (layer.bias is not None))
    return count
