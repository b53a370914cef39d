# SPDX-License-Identifier: Apache-2.0
"""The tolerance of every op, derived and not fitted: at most twice what eager PyTorch loses in the same dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def error_bound(same_dtype: Tensor, exact: Tensor, *, gradient: bool = False) -> float:
    """2 · max|same_dtype − exact| + eps(dtype) · max|exact| (3 · for gradients), over the finite elements.

    same_dtype: the reference computed in the dtype under test; exact: the reference in float64.
    """
    exact = exact.double()
    finite = torch.isfinite(exact) & torch.isfinite(same_dtype.double())
    if not finite.any():
        return 0.0
    error = (same_dtype.double() - exact)[finite].abs().max()
    rounding = torch.finfo(same_dtype.dtype).eps * exact[finite].abs().max()
    return float((3 if gradient else 2) * error + rounding)


def assert_close(
    result: Tensor, same_dtype: Tensor, exact: Tensor, *, gradient: bool = False, name: str = "result"
) -> None:
    """AssertionError unless `result` is within `error_bound` of `exact` and has the reference's NaN and infinities."""
    assert result.shape == exact.shape, f"{name}: shape {list(result.shape)}, reference {list(exact.shape)}"
    assert result.dtype == same_dtype.dtype, f"{name}: dtype {result.dtype}, reference {same_dtype.dtype}"
    if result.numel() == 0:
        return
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        got, want = kind(result), kind(same_dtype)
        assert torch.equal(got, want), f"{name}: {kind.__name__} differs at {int((got != want).sum())} places"
    finite = torch.isfinite(result)
    error = (result.double() - exact.double())[finite].abs()
    bound = error_bound(same_dtype, exact, gradient=gradient)
    worst = float(error.max()) if error.numel() else 0.0
    assert worst <= bound, (
        f"{name}: error {worst:.3g} exceeds {bound:.3g}, from eager's own error and one rounding"
    )


def assert_close_but_at_jumps(
    result: Tensor,
    same_dtype: Tensor,
    exact: Tensor,
    distance_same_dtype: Tensor,
    distance: Tensor,
    *,
    name: str = "result",
) -> None:
    """For outputs that jump between 0 and 1: `assert_close` where the deciding value lies clear of its jump.

    distance: of the deciding value from its jump, exact; within `error_bound` of it a value of 0 or 1 may flip, but
    as many up as down, and few: at most two, or one in a hundred of all.
    """
    band = distance <= error_bound(distance_same_dtype, distance)
    clear = ~band
    assert_close(result[clear], same_dtype[clear], exact[clear], name=name)
    got, want = result[band].double(), exact[band].double()
    at_jump = torch.isin(got, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert at_jump.all(), f"{name}: {int((~at_jump).sum())} values at a jump are neither 0 nor 1"
    up, down = int((got > want + 0.5).sum()), int((got < want - 0.5).sum())
    assert up == down, f"{name}: {up} values flipped up and {down} down"
    allowed = max(2, exact.numel() // 100)
    assert up + down <= allowed, f"{name}: {up + down} values flipped at their jump, allowed {allowed}"
