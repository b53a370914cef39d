# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding (Su et al., arXiv 2104.09864) in half-split pairing; norm of queries and keys."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["apply_rope", "qk_norm_rope", "rms_norm", "rope_tables"]


def rope_tables(
    length: int, dim: int, base: float = 10000.0, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin of t·base^(-2i/dim): each (length, dim/2), float32."""
    exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=device) * (-math.log(base) / dim)
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * exponent.exp()
    return angle.cos(), angle.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a, b) ← (a cos − b sin, b cos + a sin) on the first r = 2·cos.shape[1] of D dims; x (B, T, H, D).

    a is the first half of the r dims and b the second; cos and sin are (T, r/2).
    """
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last dim, at least in float32; the dtype of x."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(wide), x.shape[-1:], weight.to(wide), eps).to(x.dtype)


def qk_norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """RMS-normalise each head of q and k (B, T, H, D), then rotate both by the tables of `rope_tables`.

    Arithmetic is at least float32; the results have the dtype of q and k.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q_rotated = apply_rope(rms_norm(q.to(wide), q_weight, eps), cos, sin)
    k_rotated = apply_rope(rms_norm(k.to(wide), k_weight, eps), cos, sin)
    return q_rotated.to(q.dtype), k_rotated.to(k.dtype)
