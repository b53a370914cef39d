# SPDX-License-Identifier: Apache-2.0
"""Sizes of gated_residual_adaln beyond those of the table: above 4 MB rows of a float32 stream go in pairs."""

from __future__ import annotations

import pytest
import torch

from prestissimo import ops
from prestissimo.ops.gated_residual_adaln import reference
from prestissimo.ops.tolerance import assert_close


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_in_pairs(dtype: torch.dtype, norm: str) -> None:
    """Pairs end where a sample does; a row's bits do not depend on the thread or the row beside it."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 351, 1031, generator=rng) + 3
    branch = torch.randn(x.shape, generator=rng).to(dtype)
    gate, shift, scale = (torch.randn(2, 1031, generator=rng) for _ in range(3))
    arguments = (x, branch, gate, shift, scale)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        ours = ops.gated_residual_adaln(*arguments, norm=norm)
        torch.set_num_threads(2)
        shared = ops.gated_residual_adaln(*arguments, norm=norm)
    finally:
        torch.set_num_threads(threads)
    exact = reference(*(a.double() for a in arguments), norm=norm)
    for one, two, same, wide in zip(ours, shared, reference(*arguments, norm=norm), exact, strict=True):
        assert torch.equal(one, two)
        assert_close(one, same, wide, name=f"gated_residual_adaln {norm}")
