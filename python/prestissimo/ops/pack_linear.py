# SPDX-License-Identifier: Apache-2.0
"""Lay out the weight of a linear layer once, for the products of csrc/cpu/gemm.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, expect_shape, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 32  # kPackedColumns of csrc/ops/pack_linear.h, where the layout is
STEP = {"float32": 1, "bfloat16": 2, "int8": 4}


@dataclass(frozen=True)
class PackedWeight:
    """A weight [out_features, in_features] as `linear` reads it: one array of bytes that all threads may share.

    data is a plain uint8 array (a torch tensor where the weight was one), so it moves, saves and memory-maps like any
    other; the layout is the same for every instruction set.
    """

    data: Any
    dtype: str
    out_features: int
    in_features: int

    def unpack(self, dtype: Any = None) -> Tensor:
        """The weight [out_features, in_features] as it stands after rounding, in float32 or `dtype` (torch)."""
        import torch

        q, scale = unpacked(self.data, self.dtype, self.out_features, self.in_features)
        w = q.float() if scale is None else q.float() * scale[:, None]
        return w.to(dtype or torch.float32)


def pack_linear(weight: Any, dtype: str = "bfloat16", scale: Any = None) -> PackedWeight:
    """Weight [N, K] → panels of 32 rows, values of k in steps of 4 bytes; int8: value = w·127/max|row|, rounded.

    Args:
        weight: [N, K], float32, bfloat16 or float16, any strides; or int8 with `scale`.
        dtype: "float32", "bfloat16" or "int8", the type of the products that `linear` will form.
        scale: [N] float32, what the rows of an int8 weight are to be multiplied by.

    Returns:
        PackedWeight, of the kind of `weight` (torch, NumPy, …) and about its size in `dtype`.

    Raises:
        ValueError: shapes or a dtype that do not fit, naming the argument.
        TypeError: an element type that cannot be packed.

    >>> import numpy as np
    >>> packed = pack_linear(np.eye(3, 5, dtype=np.float32), "int8")
    >>> packed.out_features, packed.in_features, packed.data.nbytes
    (3, 5, 512)
    """
    if len(weight.shape) != 2:
        raise ValueError(f"pack_linear: weight must have 2 dimensions, got shape {list(weight.shape)}")
    N, K = weight.shape
    return PackedWeight(_op(weight, scale, dtype), dtype, N, K)


def packed_bytes(dtype: str, N: int, K: int) -> int:
    panels, steps = -(-N // COLUMNS), -(-K // STEP[dtype])
    return panels * COLUMNS * 4 * (steps + 2 * (dtype == "int8"))


def quantised_rows(w: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as int8 values (float32) and their scales, rounded by the arithmetic of the kernels, in float32."""
    import torch

    w = w.float()
    if w.shape[-1] == 0:
        return w, w.new_zeros(w.shape[:-1])
    largest = w.abs().amax(-1)
    finite = largest.isfinite()
    # 127.0 / largest would be 127 times the rounded reciprocal
    inverse = (
        (torch.full_like(largest, 127.0) / largest)
        .clamp(max=torch.finfo(torch.float32).max)
        .where(finite, 0.0)
    )
    values = torch.where(finite[..., None], (w * inverse[..., None]).round(), 0.0)
    return values, (largest / 127.0).where(finite, torch.nan)


def reference(weight: Tensor, scale: Tensor | None = None, dtype: str = "bfloat16") -> Tensor:
    """The layout in plain PyTorch, as bytes."""
    import torch

    N, K = weight.shape
    if dtype == "int8":
        q, scale = quantised_rows(weight) if scale is None else (weight.float(), scale)
        w = q.to(torch.int8)
    else:
        w = weight.float().to(getattr(torch, dtype))
    step, panels = STEP[dtype], -(-N // COLUMNS)
    steps = -(-K // step)
    padded = w.new_zeros(panels * COLUMNS, steps * step)
    padded[:N, :K] = w
    parts = [padded.view(panels, COLUMNS, steps, step).transpose(1, 2).contiguous()]
    if scale is not None:
        offsets = -128 * padded.sum(-1, dtype=torch.int32)
        scales = offsets.new_zeros(panels * COLUMNS, dtype=torch.float32)
        scales[:N] = scale
        parts += [offsets.to(torch.int32), scales]
    return torch.cat([p.reshape(-1).view(torch.uint8) for p in parts])


def unpacked(data: Any, dtype: str, N: int, K: int) -> tuple[Tensor, Tensor | None]:
    """Values [N, K] in `dtype`, and the scales [N] of int8."""
    import torch

    bytes_ = data if isinstance(data, torch.Tensor) else torch.from_numpy(data)
    step, panels = STEP[dtype], -(-N // COLUMNS)
    steps = -(-K // step)
    end = panels * COLUMNS * steps * 4
    values = bytes_[:end].view(getattr(torch, dtype)).view(panels, steps, COLUMNS, step)
    w = values.transpose(1, 2).reshape(panels * COLUMNS, steps * step)[:N, :K]
    if dtype != "int8":
        return w, None
    return w, bytes_[end + panels * COLUMNS * 4 :].view(torch.float32)[:N]


def _check(weight: Any, scale: Any, dtype: str) -> None:
    if len(weight.shape) != 2:
        raise ValueError(f"pack_linear: weight must have 2 dimensions, got shape {list(weight.shape)}")
    if dtype not in STEP:
        raise ValueError(f"pack_linear: dtype must be 'float32', 'bfloat16' or 'int8', got '{dtype}'")
    whole = str(weight.dtype).rsplit(".")[-1] == "int8"
    if whole and dtype != "int8":
        raise ValueError("pack_linear: dtype must be 'int8' where weight is int8")
    if whole != (scale is not None):
        raise ValueError("pack_linear: scale must be given where weight is int8, and only there")
    expect_shape("pack_linear", "scale", scale, (weight.shape[0],))
    if scale is not None and not str(scale.dtype).endswith("float32"):
        raise TypeError(f"pack_linear: scale must be float32, got {scale.dtype}")


def _kernel(weight: Any, scale: Any, dtype: str) -> Any:
    _check(weight, scale, dtype)
    out = new_empty(weight, (packed_bytes(dtype, *weight.shape),), "uint8")
    launch(_core.pack_linear, weight, scale, dtype, out)
    return out


_op = Op(
    "pack_linear(Tensor weight, Tensor? scale, str dtype) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda weight, scale, dtype: new_empty(weight, (packed_bytes(dtype, *weight.shape),), "uint8"),
    check=_check,
    dtypes=("float32", "bfloat16", "float16", "int8"),
)
