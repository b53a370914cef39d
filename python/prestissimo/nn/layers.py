# SPDX-License-Identifier: Apache-2.0
"""Layers that more than one network is built of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prestissimo import ops
from prestissimo.ops.adaln_modulate import reference as adaln_modulate_reference
from prestissimo.ops.attention import reference as attention_reference
from prestissimo.ops.gated_residual_adaln import reference as gated_residual_adaln_reference
from prestissimo.ops.linear import reference as linear_reference
from prestissimo.ops.qk_norm_rope import reference as qk_norm_rope_reference
from prestissimo.ops.swiglu import reference as swiglu_reference

__all__ = ["CONDITIONS", "TIMED", "BeatEmbedding", "Kernels", "ScalarEmbedding", "SwiGLU", "WideLinear"]


class Kernels(nn.Module):
    """A network whose ops may run through their plain-PyTorch references.

    kernels: "auto" calls `prestissimo.ops`, "reference" the references; may be changed at any time, for the
    networks inside this one too.
    """

    _kernels: str

    def __init__(self, kernels: str = "auto") -> None:
        super().__init__()
        self.kernels = kernels

    @property
    def kernels(self) -> str:
        return self._kernels

    @kernels.setter
    def kernels(self, value: str) -> None:
        if value not in ("auto", "reference"):
            raise ValueError(f'kernels must be "auto" or "reference", got {value!r}')
        for module in self.modules():
            if isinstance(module, Kernels):
                module._kernels = value

    @property
    def by_reference(self) -> bool:
        """Whether the references are called, or would run in any case because the compiled module is missing."""
        return self._kernels == "reference" or not ops.compiled()

    @property
    def adaln_modulate(self) -> Callable[..., Tensor]:
        return ops.adaln_modulate if self._kernels == "auto" else adaln_modulate_reference

    @property
    def attention(self) -> Callable[..., Tensor]:
        return ops.attention if self._kernels == "auto" else attention_reference

    @property
    def gated_residual_adaln(self) -> Callable[..., tuple[Tensor, Tensor]]:
        return ops.gated_residual_adaln if self._kernels == "auto" else gated_residual_adaln_reference

    @property
    def linear(self) -> Callable[..., Tensor]:
        return ops.linear if self._kernels == "auto" else linear_reference

    @property
    def qk_norm_rope(self) -> Callable[..., tuple[Tensor, Tensor]]:
        return ops.qk_norm_rope if self._kernels == "auto" else qk_norm_rope_reference

    @property
    def swiglu(self) -> Callable[..., Tensor]:
        return ops.swiglu if self._kernels == "auto" else swiglu_reference


class WideLinear(nn.Linear):
    """x Wᵀ + b in the dtype of x, float32 or wider, whatever that of the weights; the caller switches autocast off."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class SwiGLU(nn.Module):
    """W₂(a · silu(b)) with (a, b) = W₁x; x (..., C) to (..., C); no biases (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 2 * inner, bias=False)
        self.contract = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, kernels: Kernels) -> Tensor:
        return self.contract(kernels.swiglu(self.expand(x)))


# Each transform brings its condition to about [-2, 2], where ScalarEmbedding's features resolve it; tempo to
# [3.4, 5.7], where the fastest of them turns by 2.6 rad within the 4 % that a tempo is judged by.
# sigma: EDM's c_noise = ln(σ)/4. target_sigma: the second time of a consistency trajectory, which may be 0.
# tempo: beats per minute, 0 where it is left open.
CONDITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigma": lambda sigma: sigma.log() / 4,
    "target_sigma": lambda sigma: sigma.clamp_min(1e-4).log() / 4,
    "seconds": lambda seconds: seconds.log1p() / 4,
    "tempo": lambda bpm: bpm.log1p(),
    "budget": lambda blocks: blocks / 16,
}
# Conditions with one value per latent.
TIMED = frozenset({"beats"})


class ScalarEmbedding(nn.Module):
    """W [sin(ωu), cos(ωu)] + b with u = transform(value); value (B,) to (B, width).

    ω is geometric from 1/2 to 64 rad per unit. W and b start at zero: a condition that is added to a trained
    network changes no output until it is trained. Computed in float32 (float64 for float64 values).
    """

    def __init__(self, name: str, width: int, features: int) -> None:
        super().__init__()
        if name not in CONDITIONS:
            raise ValueError(f"conditions must be among {sorted(CONDITIONS)}, got {name!r}")
        self.name = name
        self.features = features
        self.linear = WideLinear(features, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def extra_repr(self) -> str:
        return f"{self.name!r}, features={self.features}"

    def forward(self, value: Tensor) -> Tensor:
        u = CONDITIONS[self.name](value.to(torch.promote_types(value.dtype, torch.float32)))
        n = self.features // 2
        log_omega = torch.linspace(-math.log(2), math.log(64), n, dtype=u.dtype, device=u.device)
        angle = u[:, None] * log_omega.exp()
        embedded: Tensor = self.linear(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return embedded


class BeatEmbedding(nn.Module):
    """W [sin(2πmφ), cos(2πmφ)] for m = 1/4, 1/2, 1, 2, 4, with φ in beats: (B, T) to (B, T, width).

    Latents of one metrical position get one vector, whatever the tempo: attention finds the last beat and the last
    bar of four by content, as RoPE finds a distance. Nothing is added where φ is NaN (no known beat). W starts at zero.
    """

    MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = WideLinear(2 * len(self.MULTIPLES), width, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, beats: Tensor) -> Tensor:
        beats = beats.to(torch.promote_types(beats.dtype, torch.float32))
        cycles = beats.nan_to_num()[..., None] * beats.new_tensor(self.MULTIPLES)
        angle = 2 * math.pi * (cycles - cycles.floor())
        waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
        embedded: Tensor = self.linear(waves.where(beats.isfinite()[..., None], 0))
        return embedded
