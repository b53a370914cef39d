# SPDX-License-Identifier: Apache-2.0
"""What this machine can do, measured in the run that is judged by it: oneDNN's prepacked products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def onednn_product(M: int, K: int, N: int, dtype: torch.dtype) -> Callable[[], Any]:
    """x W^T, (M, K) times (N, K), with W packed beforehand; int8 with one scale for x and one per channel of W."""
    x, w = torch.randn(M, K), torch.randn(N, K)
    if dtype != torch.int8:
        x, w = x.to(dtype), w.to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(w, M)
        return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    qx = torch.randint(0, 255, (M, K), dtype=torch.uint8)
    qw = torch.randint(-127, 127, (N, K), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(qw, [M, K])
    scale, zero = torch.full((N,), 0.01), torch.zeros(N, dtype=torch.int64)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        qx, 0.02, 128, packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )
