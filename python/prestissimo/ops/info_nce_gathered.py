# SPDX-License-Identifier: Apache-2.0
"""`info_nce` over the batch of all processes: local and gathered forms, equal to open_clip's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .info_nce import FORMS, info_nce
from .registration import torch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


def info_nce_gathered(
    a: Tensor,
    b: Tensor,
    logit_scale: Any,
    logit_bias: Any = None,
    a_group: Tensor | None = None,
    b_group: Tensor | None = None,
    form: str = "symmetric",
    normalize: bool = False,
    local_loss: bool = False,
    gather_with_grad: bool = False,
    group: ProcessGroup | None = None,
) -> Tensor:
    """`info_nce` of this process's pairs among those of all processes of `group`; each holds equally many.

    Form "symmetric": with `local_loss` the mean over this process's pairs, ½·[rows(a, all b) + rows(b, all a)],
    whose work per process grows with one factor of the global batch; else the loss of the whole batch, on every
    process. With `gather_with_grad` gradients flow back to the processes that the other features came from (summed,
    as data-parallel training expects before it divides by their number); else only this process's features have any.

    Form "sigmoid": this process's a against all b over its number of pairs, gradients always flowing back
    (`local_loss` and `gather_with_grad` have no say).

    Args:
        a, b: this process's [B, E]; logit_scale, logit_bias, form and normalize: as in `info_nce`.
        a_group, b_group: int64 [B], numbered alike on all processes.
        group: all processes where absent. Without torch.distributed, or alone, it is `info_nce` itself.

    Returns:
        A float32 tensor of one number.

    Raises:
        ValueError: form "rows", which has no gathered meaning, and what `info_nce` raises.

    Source: open_clip's ClipLoss and SigLipLoss (arXiv 2303.15343, section 3.3).

    >>> import torch
    >>> a = torch.eye(3)
    >>> round(float(info_nce_gathered(a, a, 2.0)), 4)
    0.2395
    """
    if form not in FORMS or form == "rows":
        raise ValueError(f"info_nce_gathered: form must be 'symmetric' or 'sigmoid', got '{form}'")
    if (a_group is None) != (b_group is None):
        raise ValueError("info_nce_gathered: a_group and b_group go together")
    shared: dict[str, Any] = {"logit_scale": logit_scale, "normalize": normalize}
    distributed = torch.distributed
    if (
        not distributed.is_available()
        or not distributed.is_initialized()
        or distributed.get_world_size(group) == 1
    ):
        return info_nce(a, b, **shared, logit_bias=logit_bias, a_group=a_group, b_group=b_group, form=form)

    offset = distributed.get_rank(group) * len(a)
    a_groups = b_groups = None
    if a_group is not None:
        a_groups, b_groups = _gather(a_group, group), _gather(b_group, group)
    if form == "sigmoid":
        all_b = _gather_with_gradient(b, group)
        shared |= {"logit_bias": logit_bias, "form": form, "offset": offset}
        return info_nce(a, all_b, **shared, a_group=a_group, b_group=b_groups)

    gather = _gather_with_gradient if gather_with_grad else _gather
    all_a, all_b = gather(a, group), gather(b, group)
    if local_loss:
        shared |= {"form": "rows", "offset": offset}
        rows = info_nce(a, all_b, **shared, a_group=a_group, b_group=b_groups)
        return (rows + info_nce(b, all_a, **shared, a_group=b_group, b_group=a_groups)) / 2
    if not gather_with_grad:
        before, after = slice(None, offset), slice(offset + len(a), None)
        all_a, all_b = (torch.cat([v[before], own, v[after]]) for v, own in ((all_a, a), (all_b, b)))
    return info_nce(all_a, all_b, **shared, a_group=a_groups, b_group=b_groups)


def _gather(x: Any, group: Any) -> Any:
    """The rows of all processes, in their order, as constants."""
    x = x.detach().contiguous()
    out = x.new_empty((torch.distributed.get_world_size(group) * len(x), *x.shape[1:]))
    torch.distributed.all_gather_into_tensor(out, x, group)
    return out


def _gather_with_gradient(x: Any, group: Any) -> Any:
    return _Gather.apply(x, group)


if torch is not None:

    class _Gather(torch.autograd.Function):
        """`_gather` whose backward sums what all processes say about these rows."""

        @staticmethod
        def forward(ctx: Any, x: Any, group: Any) -> Any:
            ctx.group, ctx.rows = group, len(x)
            return _gather(x, group)

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:
            dy = dy.contiguous().clone()
            torch.distributed.all_reduce(dy, group=ctx.group)
            first = torch.distributed.get_rank(ctx.group) * ctx.rows
            return dy[first : first + ctx.rows], None
