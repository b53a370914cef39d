# SPDX-License-Identifier: Apache-2.0
"""The squared norm of a list of tensors, such as all gradients of a model, in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

LIST_BLOCK = 4096  # kListBlock of csrc/ops/tensor_group.h


def squared_norm(tensors: Sequence[Any]) -> Any:
    """Σ g² over all elements of all tensors: ‖g‖² of a model's gradients, say.

    Args:
        tensors: one or more, of any shapes, all float32, bfloat16 or float16 (float64: the reference).

    Returns:
        One float32 (float64 for float64) without dimensions, where the tensors are: nothing waits for a GPU. The
        same bits for any number of threads. Differentiable: the gradient norm as a penalty, after `autograd.grad`
        with create_graph.

    Raises:
        ValueError: no tensors at all.
        TypeError: dtypes that differ from the first one's, or that no kernel takes.

    Source: the penalty and the norms of Novack et al., "Disentangling the mechanisms behind implicit regularization
    in SGD" (arXiv 2211.15853), section 2.

    >>> import numpy as np
    >>> float(squared_norm([np.float32([1.0, 2.0]), np.float32([[3.0]])]))
    14.0
    """
    return _op(list(tensors))


def reference(tensors: Sequence[Tensor]) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `squared_norm`."""
    import torch

    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack([t.to(wide).square().sum() for t in tensors]).sum()


def expect_list(op: str, name: str, tensors: Sequence[Any], first: Sequence[Any], first_name: str) -> None:
    """ValueError or TypeError naming the argument unless the tensors have the dtype of the first list's, and its
    shapes where they are another list."""
    if not first:
        raise ValueError(f"{op}: {first_name} must hold at least one array")
    if len(tensors) != len(first):
        raise ValueError(f"{op}: {name} must hold {len(first)} arrays, got {len(tensors)}")
    for i, (t, f) in enumerate(zip(tensors, first, strict=True)):
        if tuple(t.shape) != tuple(f.shape):
            raise ValueError(f"{op}: {name}[{i}] must be {list(f.shape)}, got {list(t.shape)}")
        if t.dtype != first[0].dtype:
            raise TypeError(f"{op}: {name}[{i}] must be {first[0].dtype} like {first_name}[0], got {t.dtype}")


def _check(tensors: Sequence[Any]) -> None:
    expect_list("squared_norm", "tensors", tensors, tensors, "tensors")


def _kernel(tensors: Sequence[Any]) -> Any:
    if not tensors:
        _check(tensors)
    blocks = sum(-(-math.prod(t.shape) // LIST_BLOCK) for t in tensors)
    total = new_empty(tensors[0], (), "float32")
    launch(_core.squared_norm, tensors, new_empty(tensors[0], (blocks,), "float32"), total)
    return total


def _fake(tensors: Sequence[Any]) -> Any:
    import torch

    return tensors[0].new_empty((), dtype=torch.promote_types(tensors[0].dtype, torch.float32))


_op = Op(
    "squared_norm(Tensor[] tensors) -> Tensor", kernel=_kernel, reference=reference, fake=_fake, check=_check
)


# ---- backward: 2·dtotal·g; a gradient that nobody wants comes back as an empty tensor


def backward_reference(tensors: Sequence[Tensor], dtotal: Tensor, wanted: list[bool]) -> list[Tensor]:
    factor = 2 * dtotal
    return [
        (factor * t).to(t.dtype) if want else t.new_empty(0) for t, want in zip(tensors, wanted, strict=True)
    ]


def _backward_kernel(tensors: Sequence[Any], dtotal: Any, wanted: list[bool]) -> list[Any]:
    out = [empty_like(t) if want else new_empty(t, (0,)) for t, want in zip(tensors, wanted, strict=True)]
    pairs = [(t, d) for t, d, want in zip(tensors, out, wanted, strict=True) if want]
    if pairs:
        launch(_core.squared_norm_backward, [t for t, _ in pairs], dtotal, [d for _, d in pairs])
    return out


_backward_op = Op(
    "squared_norm_backward(Tensor[] tensors, Tensor dtotal, bool[] wanted) -> Tensor[]",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda tensors, _, wanted: [
        t.new_empty(t.shape if want else 0) for t, want in zip(tensors, wanted, strict=True)
    ],
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[0])


def _gradient(ctx: Any, dtotal: Tensor) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[0])
    grads = _backward_op(list(ctx.saved_tensors), dtotal, wanted)
    return ([g if want else None for g, want in zip(grads, wanted, strict=True)],)


_op.gradient(_gradient, _setup)
