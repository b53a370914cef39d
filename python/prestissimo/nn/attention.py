# SPDX-License-Identifier: Apache-2.0
"""Self and cross attention with normalised queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prestissimo.nn.layers import Kernels

__all__ = ["CrossAttention", "SelfAttention"]


class SelfAttention(nn.Module):
    """Attention of x (B, T, C) over itself, RoPE on queries and keys, no biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.Parameter(torch.ones(width // heads))
        self.k_norm = nn.Parameter(torch.ones(width // heads))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, kernels: Kernels) -> Tensor:
        qkv = self.qkv(x)
        q, k = kernels.qk_norm_rope(qkv, cos, sin, self.q_norm, self.k_norm, heads=self.heads)
        v = qkv.unflatten(-1, (3, self.heads, -1))[:, :, 2]
        return self.out(kernels.attention(q, k, v).flatten(2))


class CrossAttention(nn.Module):
    """Attention of x (B, T, C) to a context (B, S, C) whose keys and values `project` makes once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.q_norm = nn.Parameter(torch.ones(width // heads))
        self.k_norm = nn.Parameter(torch.ones(width // heads))
        self.out = nn.Linear(width, width, bias=False)

    def project(self, context: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """Normalised keys and values of the context: each (B, S, H, D)."""
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return kernels.qk_norm_rope(k, q_weight=self.k_norm)[0], v

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kernels: Kernels) -> Tensor:
        q, _ = kernels.qk_norm_rope(self.q(x).unflatten(-1, (self.heads, -1)), q_weight=self.q_norm)
        return self.out(kernels.attention(q, k, v, mask=mask).flatten(2))
