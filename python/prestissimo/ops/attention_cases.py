# SPDX-License-Identifier: Apache-2.0
"""Cases of attention; part of the table in cases.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .attention import allowed, attention, reference
from .op_case import Arguments, OpCase, Shape, Spoiled, cut, noise, other_dtype

# (B, T, S, H, Hk, D); shorter ones are (B, T, D), with the keys and heads of the variant. A panel of queries has 14
# rows, a panel of keys 32 and a block of keys 256; the widest vector has 16 lanes.
_EDGES: tuple[Shape, ...] = (
    (2, 5, 24), (1, 1, 1), (1, 3, 7), (2, 2, 8), (1, 14, 16), (1, 15, 17), (1, 29, 64), (1, 13, 257, 4, 2, 33),
    (1, 2, 31, 2, 2, 15), (1, 3, 32, 1, 1, 31), (1, 4, 33, 4, 2, 32), (2, 17, 65, 6, 2, 65), (1, 30, 256, 2, 1, 128),
    (1, 7, 515, 3, 3, 40), (0, 3, 4, 2, 2, 8), (1, 0, 4, 2, 2, 8), (2, 3, 0, 2, 1, 8), (1, 3, 4, 2, 2, 0),
)  # fmt: skip
_FEW: tuple[Shape, ...] = (
    (2, 5, 24), (1, 1, 1), (1, 3, 7), (3, 15, 17), (2, 37, 64), (2, 17, 65, 6, 2, 33), (2, 30, 290, 2, 1, 64),
    (2, 3, 0, 2, 1, 8),
)  # fmt: skip
# Layers of the bundled model and of Stable Audio's: batch, queries, keys, heads of q and of k, head dim
_SELF: dict[str, Shape] = {
    "mini-12s": (1, 129, 129, 5, 5, 64),
    "mini-32s": (1, 345, 345, 5, 5, 64),
    "open-small": (1, 257, 257, 8, 8, 128),
    "open-1.0": (1, 1025, 1025, 24, 24, 64),
    "sa3-small-20s": (1, 280, 280, 16, 16, 64),
}
_CROSS: dict[str, Shape] = {
    "mini-32s": (1, 345, 64, 5, 5, 64),
    "open-small": (1, 257, 65, 8, 8, 128),
    "open-1.0": (1, 1025, 130, 24, 12, 64),
    "sa3-small-20s": (1, 280, 257, 16, 16, 64),
}
_SA3_MEDIUM: dict[str, Shape] = {"sa3-medium-20s": (1, 280, 280, 24, 24, 64)}
_ACE_STEP: dict[str, Shape] = {"ace-step-1.5-60s": (1, 750, 750, 16, 8, 128)}


def _sizes(shape: Shape, heads: tuple[int, int], longer: int) -> tuple[int, int, int, int, int, int]:
    if len(shape) == 3:
        B, T, D = shape
        return B, T, T + longer, *heads, D
    B, T, S, H, Hk, D = shape
    return B, T, S, H, Hk, D


def _pairs(T: int, S: int, window: tuple[int, int]) -> int:
    """Queries and keys that meet."""
    left, right = (S + T if w < 0 else w for w in window)
    return sum(max(0, min(S, i + right + 1) - max(0, i - left)) for i in range(T))


def _sdpa(a: Arguments) -> Callable[[], Tensor]:
    """torch's own attention, once or twice, its mask made beforehand."""
    head_first = {
        name: a[name].transpose(1, 2) for name in ("q", "k", "v", "q2", "k2") if a[name] is not None
    }
    seen = allowed(a["q"], a["k"], a["mask"], a["lengths"], a["window"])
    grouped = a["q"].shape[2] != a["k"].shape[2]

    def once(q: str, k: str) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            head_first[q],
            head_first[k],
            head_first["v"],
            attn_mask=seen,
            enable_gqa=grouped,
            scale=a["scale"],
        ).transpose(1, 2)

    return lambda: once("q", "k") if a["q2"] is None else once("q", "k") - once("q2", "k2")


def _case(
    variant: str,
    small: tuple[Shape, ...] = _FEW,
    *,
    heads: tuple[int, int] = (2, 2),
    longer: int = 0,
    keys: str = "",
    window: tuple[int, int] = (-1, -1),
    differential: bool = False,
    scale: float | None = None,
    real: Mapping[str, Shape] | None = None,
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        B, T, S, H, Hk, D = _sizes(shape, heads, longer)

        def rows(n: int, heads: int, mean: float) -> Tensor:
            x = noise((B, n, heads, D), torch.float64, rng, mean)
            return (x * (1 + 2 * (torch.rand(x.shape, generator=rng) < 0.002))).to(dtype)

        arguments: Arguments = {"q": rows(T, H, 0.1), "k": rows(S, Hk, -0.1), "v": rows(S, Hk, 0.4)}
        arguments["q2"] = rows(T, H, -0.2) if differential else None
        arguments["k2"] = rows(S, Hk, 0.2) if differential else None
        mask = torch.rand((B, S), generator=rng) < 0.7
        mask[:1, :1] = True
        lengths = torch.randint(0, S + 3, (B,), generator=rng)
        lengths[:1], lengths[1:2] = max(S - 2, 1), 0  # a sample without keys
        arguments["mask"] = mask if "mask" in keys else None
        arguments["lengths"] = lengths if "lengths" in keys else None
        return {**arguments, "window": list(window), "scale": scale}

    gradients = ("q", "k", "v", *(("q2", "k2") if differential else ()))
    bad: list[Spoiled] = [
        *((cut(name), ValueError, name) for name in gradients if name != "q"),
        *((other_dtype(name), TypeError, name) for name in gradients if name != "q"),
        (lambda a: {**a, "q": a["q"][0]}, ValueError, "q"),
        (lambda a: {**a, "k": a["k"][:, :, :0], "v": a["v"][:, :, :0]}, ValueError, "k"),
        (lambda a: {**a, "q2": a["q"], "k2": None}, ValueError, "k2"),
        (lambda a: {**a, "mask": torch.ones(3, 1, dtype=torch.bool)}, ValueError, "mask"),
        (lambda a: {**a, "mask": torch.ones(a["k"].shape[:2])}, TypeError, "mask"),
        (lambda a: {**a, "lengths": torch.ones(7, dtype=torch.int64)}, ValueError, "lengths"),
        (lambda a: {**a, "lengths": torch.ones(a["k"].shape[0])}, TypeError, "lengths"),
        (lambda a: {**a, "window": [-2, 0]}, ValueError, "window"),
        (lambda a: {**a, "window": [1]}, ValueError, "window"),
        (lambda a: {**a, "scale": 0.0}, ValueError, "scale"),
    ]
    softmaxes = 1 + differential

    def moved(shape: Shape, item: int) -> int:
        B, T, S, H, Hk, D = _sizes(shape, heads, longer)
        return B * D * ((softmaxes + 1) * (T * H + S * Hk)) * item

    def flops(shape: Shape) -> int:
        B, T, S, H, _, D = _sizes(shape, heads, longer)
        return 4 * softmaxes * B * H * D * _pairs(T, S, window)

    def eager(shape: Shape, item: int) -> int:
        B, T, S, H, *_ = _sizes(shape, heads, longer)
        passes = 6 + 4 * (
            bool(keys) or window != (-1, -1)
        )  # scores, scaled, masked, weights: written and read
        return moved(shape, item) + softmaxes * passes * B * H * T * S * item

    return OpCase(
        name="attention",
        op=attention,
        reference=reference,
        make=make,
        baseline=_sdpa,
        small=small,
        variant=variant,
        gradients=gradients,
        gradient_small=small,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=moved,
        eager_bytes=eager,
        flops=flops,
    )


ATTENTION_CASES: tuple[OpCase, ...] = (
    _case("self", _EDGES, real=_SELF),
    _case("cross", longer=3, heads=(4, 2), real=_CROSS),
    _case("mask", keys="mask", longer=9),
    _case("lengths", keys="lengths", longer=2, heads=(4, 2), real={"mini-32s": (1, 345, 64, 5, 5, 64)}),
    _case("window", window=(2, 3), heads=(4, 2)),
    _case("window-128", ((1, 300, 300, 2, 1, 64), (2, 5, 24)), window=(128, 128), real=_ACE_STEP),
    _case("causal", window=(-1, 0), longer=1, scale=0.3),
    _case("differential", differential=True, heads=(2, 1), real=_SA3_MEDIUM),
    _case("differential-mask-window", differential=True, keys="mask lengths", window=(17, 5), heads=(2, 1)),
)
