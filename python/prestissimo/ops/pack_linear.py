# SPDX-License-Identifier: Apache-2.0
"""Lay out the weight of a linear layer once, for the products of csrc/cpu/gemm.h."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, expect_shape, launch, new_empty

if TYPE_CHECKING:
    import torch
    from torch import Tensor

COLUMNS = 32  # kPackedColumns of csrc/ops/pack_linear.h, where the layout is
STEP = {"float32": 1, "bfloat16": 2, "int8": 4}


@dataclass(frozen=True)
class PackedWeight:
    """A weight [out_features, in_features] as `linear` reads it: one array of bytes that all threads may share.

    data is a plain uint8 array (a torch tensor where the weight was one), so it moves, saves and memory-maps like any
    other. layout is "panels" for the CPU, the same for every instruction set, or "rows" for a GPU; `to` brings a torch
    one to a device in the layout that is read there.
    """

    data: Any
    dtype: str
    out_features: int
    in_features: int
    layout: str = "panels"

    def unpack(self, dtype: Any = None) -> Tensor:
        """The weight [out_features, in_features] as it stands after rounding, in float32 or `dtype` (torch)."""
        import torch

        q, scale = unpacked(self.data, self.dtype, self.out_features, self.in_features, self.layout)
        w = q.float() if scale is None else q.float() * scale[:, None]
        return w.to(dtype or torch.float32)

    def to(self, device: Any) -> PackedWeight:
        """The same values on `device` (torch)."""
        import torch

        layout = "panels" if torch.device(device).type == "cpu" else "rows"
        if layout == self.layout:
            return replace(self, data=self.data.to(device))
        host = replace(self, data=self.data.cpu())
        q, scale = unpacked(host.data, self.dtype, self.out_features, self.in_features, self.layout)
        packed = pack_linear(q, self.dtype, scale, layout)
        return replace(packed, data=packed.data.to(device))

    @property
    def packing(self) -> str:
        """dtype and layout in one word, as the ops of torch.ops take them."""
        return self.dtype if self.layout == "panels" else f"{self.dtype}-rows"


def pack_linear(
    weight: Any, dtype: str | torch.dtype = "bfloat16", scale: Any = None, layout: str | None = None
) -> PackedWeight:
    """Weight [N, K] → panels of 32 rows, values of k in steps of 4 bytes; int8: value = w·127/max|row|, rounded.

    Args:
        weight: [N, K], float32, bfloat16 or float16, any strides; or int8 with `scale`. A torch tensor on a GPU is
            packed on the CPU and sent back.
        dtype: "float32", "bfloat16" or "int8", or torch's dtype of that name: the type of the products that `linear`
            will form.
        scale: [N] float32, what the rows of an int8 weight are to be multiplied by.
        layout: "panels" (the CPU's) or "rows" (a GPU's); that of the weight's device where absent.

    Returns:
        PackedWeight, of the kind of `weight` (torch, NumPy, …) and about its size in `dtype`.

    Raises:
        ValueError: shapes, a dtype or a layout that do not fit, naming the argument.
        TypeError: an element type that cannot be packed.

    >>> import numpy as np
    >>> packed = pack_linear(np.eye(3, 5, dtype=np.float32), "int8")
    >>> packed.out_features, packed.in_features, packed.data.nbytes
    (3, 5, 512)
    """
    if len(weight.shape) != 2:
        raise ValueError(f"pack_linear: weight must have 2 dimensions, got shape {list(weight.shape)}")
    N, K = weight.shape
    dtype = str(dtype).removeprefix("torch.")
    if getattr(weight, "is_cuda", False):
        packed = pack_linear(weight.cpu(), dtype, scale if scale is None else scale.cpu(), layout or "rows")
        return replace(packed, data=packed.data.to(weight.device))
    layout = layout or "panels"
    return PackedWeight(_op(weight, scale, dtype, layout), dtype, N, K, layout)


def row_sizes(dtype: str, N: int, K: int) -> tuple[int, int]:
    """Rows and values in a row of the layout "rows"."""
    values = 16 * STEP[dtype] // 4  # in 16 bytes
    return (-(-N // 16) * 16 if dtype == "int8" else N), -(-K // values) * values


def packed_bytes(packing: str, N: int, K: int) -> int:
    dtype, _, rows = packing.partition("-")
    if rows:
        n, k = row_sizes(dtype, N, K)
        return n * (k * 4 // STEP[dtype] + 4 * (dtype == "int8"))
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


def reference(
    weight: Tensor, scale: Tensor | None = None, dtype: str = "bfloat16", layout: str = "panels"
) -> Tensor:
    """The layouts in plain PyTorch, as bytes."""
    import torch

    N, K = weight.shape
    if dtype == "int8":
        q, scale = quantised_rows(weight) if scale is None else (weight.float(), scale)
        w = q.to(torch.int8)
    else:
        w = weight.float().to(getattr(torch, dtype))
    if layout == "rows":
        rows, values = row_sizes(dtype, N, K)
        padded = w.new_zeros(rows, values)
        padded[:N, :K] = w
        parts = [padded]
    else:
        step, rows = STEP[dtype], -(-N // COLUMNS) * COLUMNS
        steps = -(-K // step)
        padded = w.new_zeros(rows, steps * step)
        padded[:N, :K] = w
        parts = [padded.view(rows // COLUMNS, COLUMNS, steps, step).transpose(1, 2).contiguous()]
        if dtype == "int8":
            parts.append((-128 * padded.sum(-1, dtype=torch.int32)).to(torch.int32))
    if scale is not None:
        parts.append(scale.new_zeros(rows, dtype=torch.float32))
        parts[-1][:N] = scale
    return torch.cat([p.reshape(-1).view(torch.uint8) for p in parts])


def unpacked(data: Any, dtype: str, N: int, K: int, layout: str = "panels") -> tuple[Tensor, Tensor | None]:
    """Values [N, K] in `dtype`, and the scales [N] of int8."""
    import torch

    bytes_ = data if isinstance(data, torch.Tensor) else torch.from_numpy(data)
    if layout == "rows":
        rows, values = row_sizes(dtype, N, K)
        scales = rows * values
        w = bytes_[: rows * values * 4 // STEP[dtype]].view(getattr(torch, dtype)).view(rows, values)[:N, :K]
    else:
        step, rows = STEP[dtype], -(-N // COLUMNS) * COLUMNS
        steps = -(-K // step)
        scales = rows * (steps + 1) * 4
        shape = (rows // COLUMNS, steps, COLUMNS, step)
        panels = bytes_[: rows * steps * 4].view(getattr(torch, dtype)).view(shape)
        w = panels.transpose(1, 2).reshape(rows, steps * step)[:N, :K]
    return w, bytes_[scales:].view(torch.float32)[:N] if dtype == "int8" else None


def _check(weight: Any, scale: Any, dtype: str, layout: str) -> None:
    if len(weight.shape) != 2:
        raise ValueError(f"pack_linear: weight must have 2 dimensions, got shape {list(weight.shape)}")
    if dtype not in STEP:
        raise ValueError(f"pack_linear: dtype must be 'float32', 'bfloat16' or 'int8', got '{dtype}'")
    if layout not in ("panels", "rows"):
        raise ValueError(f"pack_linear: layout must be 'panels' or 'rows', got '{layout}'")
    whole = str(weight.dtype).rsplit(".")[-1] == "int8"
    if whole and dtype != "int8":
        raise ValueError("pack_linear: dtype must be 'int8' where weight is int8")
    if whole != (scale is not None):
        raise ValueError("pack_linear: scale must be given where weight is int8, and only there")
    expect_shape("pack_linear", "scale", scale, (weight.shape[0],))
    if scale is not None and not str(scale.dtype).endswith("float32"):
        raise TypeError(f"pack_linear: scale must be float32, got {scale.dtype}")


def _bytes(weight: Any, dtype: str, layout: str) -> tuple[int]:
    return (packed_bytes(dtype if layout == "panels" else f"{dtype}-rows", *weight.shape),)


def _kernel(weight: Any, scale: Any, dtype: str, layout: str) -> Any:
    _check(weight, scale, dtype, layout)
    out = new_empty(weight, _bytes(weight, dtype, layout), "uint8")
    launch(_core.pack_linear, weight, scale, dtype, layout, out)
    return out


_op = Op(
    "pack_linear(Tensor weight, Tensor? scale, str dtype, str layout) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda weight, scale, dtype, layout: new_empty(weight, _bytes(weight, dtype, layout), "uint8"),
    check=_check,
    dtypes=("float32", "bfloat16", "float16", "int8"),
)
