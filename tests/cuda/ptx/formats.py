# SPDX-License-Identifier: Apache-2.0
"""PTX types as NumPy arrays, and float32 arithmetic rounded exactly once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
UNSIGNED: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    4: np.dtype(np.uint32),
    8: np.dtype(np.uint64),
}


class Type(NamedTuple):
    """A PTX type: `kind` is u, s, b (bits), f (float), h (two packed halves) or p (predicate)."""

    name: str
    bytes: int
    kind: str
    dtype: np.dtype[Any]

    @property
    def signed(self) -> bool:
        return self.kind == "s"

    @property
    def is_float(self) -> bool:
        return self.kind in "fh"


def _types() -> dict[str, Type]:
    table = {}
    for bits in (8, 16, 32, 64):
        n = bits // 8
        table[f"u{bits}"] = Type(f"u{bits}", n, "u", UNSIGNED[n])
        table[f"b{bits}"] = Type(f"b{bits}", n, "b", UNSIGNED[n])
        table[f"s{bits}"] = Type(f"s{bits}", n, "s", np.dtype(f"int{bits}"))
    table["f16"] = Type("f16", 2, "f", np.dtype(np.float16))
    table["f32"] = Type("f32", 4, "f", np.dtype(np.float32))
    table["f64"] = Type("f64", 8, "f", np.dtype(np.float64))
    table["bf16"] = Type("bf16", 2, "f", np.dtype(np.uint16))  # NumPy has no bfloat16: its bits
    table["f16x2"] = Type("f16x2", 4, "h", np.dtype(np.uint32))
    table["bf16x2"] = Type("bf16x2", 4, "h", np.dtype(np.uint32))
    table["pred"] = Type("pred", 1, "p", np.dtype(np.bool_))
    return table


TYPES = _types()


def split_halves(packed: Array) -> Array:
    """uint32 [n] -> uint16 [n, 2], the lower half first."""
    return np.ascontiguousarray(packed, np.uint32).view(np.uint16).reshape(-1, 2)


def join_halves(halves: Array) -> Array:
    return np.ascontiguousarray(halves, np.uint16).view(np.uint32)[..., 0]


def bf16_to_f32(bits: Array) -> Array:
    return (np.asarray(bits, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(x: Array) -> Array:
    """Round to nearest even; every NaN becomes 0x7fff."""
    x = np.asarray(x, np.float32)
    u = x.view(np.uint32).astype(np.uint64)
    rounded = (u + 0x7FFF + ((u >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded.astype(np.uint16))


def flush(x: Array) -> Array:
    """.ftz: float32 subnormals become zeros of their sign."""
    tiny = np.abs(x) < np.finfo(np.float32).tiny
    return np.where(tiny & (x != 0), np.copysign(np.float32(0), x), x).astype(np.float32)


def saturate(x: Array) -> Array:
    """.sat: clamp to [0, 1], NaN to 0."""
    return np.where(np.isnan(x), x.dtype.type(0), np.clip(x, 0, 1)).astype(x.dtype)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """float64 s = fl(a + b) and the exact rest a + b - s (Knuth); rest 0 where s is not finite."""
    s = a + b
    t = s - a
    rest = (a - (s - t)) + (b - t)
    return s, np.where(np.isfinite(s), rest, 0.0)


def to_odd(s: Array, rest: Array) -> Array:
    """s + rest rounded to odd in float64: rounding this on to 24 or fewer bits is then as rounding once."""
    even = (s.view(np.uint64) & np.uint64(1)) == 0
    return np.where((rest != 0) & even, np.nextafter(s, np.where(rest > 0, np.inf, -np.inf)), s)


def round_f32(x: Array, mode: str = "rn") -> Array:
    """float64 (exact, or rounded to odd) to float32 by rn, rz, rm or rp."""
    y = x.astype(np.float32)
    if mode == "rn":
        return y
    wide = y.astype(np.float64)
    up, down = np.nextafter(y, np.float32(np.inf)), np.nextafter(y, np.float32(-np.inf))
    if mode == "rm":
        return np.where(wide > x, down, y)
    if mode == "rp":
        return np.where(wide < x, up, y)
    if mode == "rz":
        return np.where(np.abs(wide) > np.abs(x), np.where(x > 0, down, up), y)
    raise ValueError(f"rounding mode {mode}")


def round_bf16(x: Array) -> Array:
    """float64 (exact, or rounded to odd) to bfloat16, once: float32 rounded to odd lies between."""
    toward_zero = round_f32(x, "rz")
    inexact = np.isfinite(x) & (toward_zero.astype(np.float64) != x)
    odd = (toward_zero.view(np.uint32) | inexact.astype(np.uint32)).view(np.float32)
    return f32_to_bf16(odd)


def fma_to_odd(a: Array, b: Array, c: Array) -> Array:
    """a b + c of float32 (or narrower) values: the product is exact in float64, the sum is rounded to odd."""
    s, rest = two_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))
    return to_odd(s, rest)
