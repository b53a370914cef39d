# SPDX-License-Identifier: Apache-2.0
"""Tables of rotary position embedding (Su et al., arXiv 2104.09864), which `ops.qk_norm_rope` reads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["rope_tables"]


def rope_tables(
    length: int, dim: int, base: float = 10000.0, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin of t·base^(-2i/dim): each (length, dim/2), float32."""
    exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=device) * (-math.log(base) / dim)
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * exponent.exp()
    return angle.cos(), angle.sin()
