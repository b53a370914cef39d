# SPDX-License-Identifier: Apache-2.0
"""CHiLS' ratings of subclasses: softmax over subclasses times softmax over their classes, one pass over a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_shape, launch, torch

if TYPE_CHECKING:
    from torch import Tensor


def hierarchy_probs(subclass_logits: Any, class_logits: Any, parents: Any) -> Any:
    """r_s = softmax(subclass_logits)_s · softmax(class_logits)_parents(s): subclasses re-weighted by their classes.

    Rows of r do not sum to 1. The class of the largest r is what `hierarchy_argmax` finds from features. Arithmetic is
    float32; gradients are closed-form and compute both softmaxes again.

    Args:
        subclass_logits: [N, S], scaled (CLIP: 100 · cosine); float32, bfloat16 or float16 (float64 runs through the
            reference).
        class_logits: [N, C], like subclass_logits.
        parents: int64 [S], the class of each subclass.

    Returns:
        [N, S], of the dtype and kind (torch, NumPy, …) of subclass_logits. Differentiable in both logits.

    Raises:
        ValueError: a shape that does not fit, by name; on the CPU also parents that are not among the classes, which a
            GPU kernel clamps.
        TypeError: dtypes that differ, or that no kernel takes.

    Source: Novack et al., "CHiLS: zero-shot image classification with hierarchical label sets" (arXiv 2302.02551),
    algorithm 1.

    >>> import numpy as np
    >>> x, z = np.log(np.array([[1, 1, 2]], np.float32)), np.log(np.array([[1, 3]], np.float32))
    >>> hierarchy_probs(x, z, np.array([0, 1, 1])).round(4)
    array([[0.0625, 0.1875, 0.375 ]], dtype=float32)
    """
    return _op(subclass_logits, class_logits, parents)


def reference(subclass_logits: Tensor, class_logits: Tensor, parents: Tensor) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `hierarchy_probs`."""
    return subclass_logits.softmax(-1) * class_logits.softmax(-1)[:, parents]


def _check(subclass_logits: Any, class_logits: Any, parents: Any, op: str = "hierarchy_probs") -> None:
    shape, rows = tuple(subclass_logits.shape), class_logits.shape
    if len(shape) != 2:
        raise ValueError(f"{op}: subclass_logits must have 2 dimensions, got shape {list(shape)}")
    if len(rows) != 2 or rows[0] != shape[0] or rows[1] < 1:
        raise ValueError(f"{op}: class_logits must be [{shape[0]}, at least 1], got {list(rows)}")
    if class_logits.dtype != subclass_logits.dtype:
        raise TypeError(
            f"{op}: class_logits must be {subclass_logits.dtype} like subclass_logits, got {class_logits.dtype}"
        )
    expect_shape(op, "parents", parents, shape[1:])
    if not str(parents.dtype).endswith("int64"):
        raise TypeError(f"{op}: parents must be int64, got {parents.dtype}")


def _kernel(subclass_logits: Any, class_logits: Any, parents: Any) -> Any:
    out = empty_like(subclass_logits)
    launch(_core.hierarchy_probs, subclass_logits, class_logits, parents, out)
    return out


_op = Op(
    "hierarchy_probs(Tensor subclass_logits, Tensor class_logits, Tensor parents) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda subclass_logits, *_: subclass_logits.new_empty(subclass_logits.shape),
    check=_check,
)


# ---- backward: an op of its own


def backward_reference(
    dout: Tensor, subclass_logits: Tensor, class_logits: Tensor, parents: Tensor
) -> tuple[Tensor, Tensor]:
    """The closed form in csrc/ops/hierarchy_probs.h, in plain PyTorch."""
    p, q = subclass_logits.softmax(-1), class_logits.softmax(-1)
    u = dout * q[:, parents]
    t = (u * p).sum(-1, keepdim=True)
    of_class = torch.zeros_like(q).index_add(-1, parents, dout * p)
    return p * (u - t), q * (of_class - t)


def _backward_check(dout: Any, subclass_logits: Any, class_logits: Any, parents: Any) -> None:
    op = "hierarchy_probs_backward"
    _check(subclass_logits, class_logits, parents, op)
    expect_shape(op, "dout", dout, tuple(subclass_logits.shape))


def _class_by_class(parents: Any, classes: int) -> tuple[Any, Any]:
    """The subclasses in the order of their classes, and where each class begins: for GPU kernels alone."""
    if not isinstance(parents, torch.Tensor) or not parents.is_cuda:
        return None, None
    ordered, order = parents.clamp(0, classes - 1).sort(stable=True)
    return order, torch.searchsorted(ordered, torch.arange(classes + 1, device=parents.device))


def _backward_kernel(dout: Any, subclass_logits: Any, class_logits: Any, parents: Any) -> tuple[Any, Any]:
    grads = empty_like(subclass_logits), empty_like(class_logits)
    by_class = _class_by_class(parents, class_logits.shape[1])
    launch(
        _core.hierarchy_probs_backward,
        *(dout, subclass_logits, class_logits, parents, *by_class, *grads),
    )
    return grads


_backward_op = Op(
    "hierarchy_probs_backward(Tensor dout, Tensor subclass_logits, Tensor class_logits, Tensor parents)"
    " -> (Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dout, subclass_logits, class_logits, _: (
        subclass_logits.new_empty(subclass_logits.shape),
        class_logits.new_empty(class_logits.shape),
    ),
    check=_backward_check,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    return (*_backward_op(dout, *ctx.saved_tensors), None)


_op.gradient(_gradient, _setup)
