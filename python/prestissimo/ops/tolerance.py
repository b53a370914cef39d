# SPDX-License-Identifier: Apache-2.0
"""The tolerance of every op, derived and not fitted: at most twice what eager PyTorch loses in the same dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def relative_error(same_dtype: Tensor, exact: Tensor) -> float:
    """max|same_dtype − exact| / max|exact|, over the finite elements."""
    exact = exact.double()
    finite = torch.isfinite(exact) & torch.isfinite(same_dtype.double())
    largest = exact[finite].abs().max() if finite.any() else exact.new_zeros(())
    return float((same_dtype.double() - exact)[finite].abs().max() / largest) if largest > 0 else 0.0


def error_bound(same_dtype: Tensor, exact: Tensor, *, gradient: bool = False, relative: float = 0.0) -> float:
    """2 · max|same_dtype − exact| + eps(dtype) · max|exact| (3 · for gradients), over the finite elements.

    same_dtype: the reference computed in the dtype under test; exact: the reference in float64. relative: eager's error
    is at least this part of max|exact|.
    """
    exact = exact.double()
    finite = torch.isfinite(exact) & torch.isfinite(same_dtype.double())
    if not finite.any():
        return 0.0
    largest = exact[finite].abs().max()
    error = (same_dtype.double() - exact)[finite].abs().max().clamp_min(relative * largest)
    rounding = torch.finfo(same_dtype.dtype).eps * largest
    return float((3 if gradient else 2) * error + rounding)


def assert_close(
    result: Tensor,
    same_dtype: Tensor,
    exact: Tensor,
    *,
    gradient: bool = False,
    name: str = "result",
    elsewhere: Callable[[], float] = lambda: 0.0,
) -> None:
    """AssertionError unless `result` is within `error_bound` of `exact` and has the reference's NaN and infinities.

    elsewhere: eager's `relative_error` on other inputs of this size, asked for where these are not enough. Its error is
    one draw, and with few outputs at times a lucky one: the order of its sums, and its luck, are the processor's.
    """
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
    if worst > bound:
        bound = error_bound(same_dtype, exact, gradient=gradient, relative=elsewhere())
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
