# SPDX-License-Identifier: Apache-2.0
"""Zero-shot classification through subclasses, CHiLS: a product whose argmax is taken while its tiles are in cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, expect_shape, launch, new_empty, scratch, torch

if TYPE_CHECKING:
    from torch import Tensor


def hierarchy_argmax(features: Any, subclasses: Any, parents: Any, classes: Any = None) -> Any:
    """parents[argmax_s <x, w_s + u_parents(s)>]: the class of the subclass that CHiLS rates highest.

    CHiLS rates subclass s by softmax(a W x)_s · softmax(a U x)_parents(s), whose argmax this is for any logit scale a:
    the denominators are constant in a row. Products are of the dtype of features (float16: float32), sums in float32;
    [N, S] values are never stored. w + u is rounded to the dtype of the product.

    Args:
        features: x, [N, E], float32, bfloat16 or float16 (float64 runs through the reference).
        subclasses: w, [S, E], like features; one row for each subclass and parent.
        parents: int64 [S], the class of each subclass.
        classes: u, [C, E], like features; without it the class of the best subclass, not re-weighted.

    Returns:
        int64 [N], of the kind (torch, NumPy, …) of features. Among equals the first subclass decides.

    Raises:
        ValueError: a shape that does not fit, by name; on the CPU also parents that are not among the classes, which a
            GPU kernel clamps.
        TypeError: dtypes that differ from that of features, or that no kernel takes.

    Source: Novack et al., "CHiLS: zero-shot image classification with hierarchical label sets" (arXiv 2302.02551),
    algorithm 1.

    >>> import numpy as np
    >>> x = np.array([[1, 0], [0, 1]], np.float32)
    >>> w = np.array([[0.9, 0.0], [0.2, 0.7], [0.1, 0.8]], np.float32)
    >>> hierarchy_argmax(x, w, np.array([0, 0, 1]))
    array([0, 1])
    >>> hierarchy_argmax(x, w, np.array([0, 0, 1]), np.array([[0.5, 0.4], [0.5, 0.0]], np.float32))
    array([0, 0])
    """
    return _op(features, subclasses, parents, classes)


def reference(features: Tensor, subclasses: Tensor, parents: Tensor, classes: Tensor | None = None) -> Tensor:
    """The formula in plain PyTorch, with the whole matrix: oracle, baseline and documentation of `hierarchy_argmax`."""
    weights = subclasses if classes is None else subclasses + classes[parents]
    return parents[(features @ weights.T).argmax(-1)]


def _check(features: Any, subclasses: Any, parents: Any, classes: Any) -> None:
    op = "hierarchy_argmax"
    if len(features.shape) != 2:
        raise ValueError(f"{op}: features must have 2 dimensions, got shape {list(features.shape)}")
    E = features.shape[1]
    for name, rows in (("subclasses", subclasses), ("classes", classes)):
        if rows is None:
            continue
        if len(rows.shape) != 2 or rows.shape[0] < 1 or rows.shape[1] != E:
            raise ValueError(f"{op}: {name} must be [at least 1, {E}], got {list(rows.shape)}")
        if rows.dtype != features.dtype:
            raise TypeError(f"{op}: {name} must be {features.dtype} like features, got {rows.dtype}")
    expect_shape(op, "parents", parents, (subclasses.shape[0],))
    if not str(parents.dtype).endswith("int64"):
        raise TypeError(f"{op}: parents must be int64, got {parents.dtype}")


def _kernel(features: Any, subclasses: Any, parents: Any, classes: Any) -> Any:
    out = new_empty(features, features.shape[:1], "int64")
    sums = None if classes is None else scratch(features, subclasses.shape)
    launch(_core.hierarchy_argmax, features, subclasses, parents, classes, sums, out)
    return out


_op = Op(
    "hierarchy_argmax(Tensor features, Tensor subclasses, Tensor parents, Tensor? classes) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda features, *_: features.new_empty(features.shape[:1], dtype=torch.int64),
    check=_check,
)
