# SPDX-License-Identifier: Apache-2.0
"""The table's entries of `dit_block`. A shape is (B, T, heads, head dim, F, S), or (B, T, C) with sizes to fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .dit_block import MATRICES, WEIGHTS, DiTBlockWeights, _flat, dit_block
from .dit_block import reference as dit_block_reference
from .op_case import Arguments, OpCase, Shape, Spoiled, cut, noise, other_dtype, rows
from .pack_linear import PackedWeight, pack_linear

_SMALL: tuple[Shape, ...] = (
    (2, 5, 2, 8, 12, 3), (1, 1, 1, 2, 1, 1), (1, 33, 2, 16, 33, 9), (2, 17, 4, 6, 20, 5), (0, 4, 2, 4, 4, 2),
    (2, 0, 2, 4, 4, 2), (2, 5, 16),
)  # fmt: skip
_OPTIONS = ("norm", "eps", "qk_norm", "qk_eps", "pairing", "gate_form", "gate_first")


def _sizes(shape: Shape) -> tuple[int, ...]:
    if len(shape) == 6:
        return shape
    B, T, C = shape
    return B, T, 1 + (C % 4 == 0), C // (1 + (C % 4 == 0)), 3, 3


def _call(f: Callable[..., Any]) -> Callable[..., Any]:
    """With the weights' fields among the arguments."""

    def call(**a: Any) -> Any:
        weights = DiTBlockWeights(**{name: a.pop(name, None) for name in WEIGHTS})
        inputs = [a.pop(name, None) for name in ("x", "heads", "modulation", "cos", "sin", "k", "v", "mask")]
        return f(inputs[0], weights, *inputs[1:], **a)

    return call


def _make(
    packing: str, vectors: tuple[str, ...], groups: int, **options: Any
) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    """vectors: which of modulation, mask, rope, cross and the weights' fields there are; groups: heads a key head."""

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        B, T, H, D, F, S = _sizes(shape)
        C, Hc, cross = H * D, max(1, H // groups), "cross" in vectors
        a: Arguments = {"x": rows((B, T, C), dtype, rng), "heads": H}
        a["modulation"] = noise((B, 6, C), dtype, rng, 0.2, 0.5) if "modulation" in vectors else None
        if "rope" in vectors:
            angle = torch.rand((T, max(1, D // 4)), generator=rng) * 6
            wide = torch.promote_types(dtype, torch.float32)
            a |= {"cos": angle.cos().to(wide), "sin": angle.sin().to(wide)}
        if cross:
            a |= {"k": noise((B, S, Hc, D), dtype, rng), "v": noise((B, S, Hc, D), dtype, rng, 0.2)}
        if "mask" in vectors:
            a["mask"] = torch.arange(S) < torch.arange(S, S - B, -1).clamp_min(1)[:, None]
        matrices = {"qkv": (3 * C, C), "out": (C, C), "expand": (2 * F, C), "contract": (C, F)}
        matrices |= {"cross_q": (C, C), "cross_out": (C, C)} if cross else {}
        for name, (N, K) in matrices.items():
            weight = noise((N, K), dtype, rng, 0.0, max(K, 1) ** -0.5)
            a[name] = pack_linear(weight.float(), packing) if packing else weight
            if f"{name}_bias" in vectors:
                a[f"{name}_bias"] = noise((N,), dtype, rng, 0.1, 0.3)
        for name in WEIGHTS:
            if name in vectors and name.removesuffix("_bias") not in MATRICES:
                size = D if name.startswith(("q_", "k_")) else C
                a[name] = noise((size,), dtype, rng, 1.0 if name.endswith("weight") else 0.1, 0.3)
        return {**a, **options}

    return make


def _overload_arguments(a: Arguments) -> tuple[Any, ...]:
    packing, data, inner = _flat(DiTBlockWeights(**{name: a.get(name) for name in WEIGHTS}))
    defaults = {"norm": "layer", "eps": 1e-6, "qk_norm": "none", "qk_eps": 1e-6, "pairing": "half"}
    o = {**defaults, "gate_form": "plain", "gate_first": False, **a}
    inputs = (a.get(name) for name in ("x", "modulation", "cos", "sin", "k", "v", "mask"))
    return (*inputs, *data, packing, a["heads"], a["heads"], inner, *(o[name] for name in _OPTIONS))


def _flops(shape: Shape) -> int:
    """Of all products."""
    B, T, H, D, F, S = _sizes(shape)
    C = H * D
    return 2 * B * T * (6 * C * C + 3 * C * F) + 4 * B * T * (T + S) * C


def _bytes(shape: Shape, item: int) -> int:
    B, T, H, D, F, _ = _sizes(shape)
    C = H * D
    return (2 * B * T * C + 6 * C * C + 3 * C * F) * item


def _baseline(a: Arguments) -> Callable[[], Any]:
    """Eager: the same formula on plain weights, torch's own attention."""
    x = a["x"]
    plain = {n: a[n].unpack(x.dtype) if isinstance(a.get(n), PackedWeight) else a.get(n) for n in WEIGHTS}
    weights = DiTBlockWeights(**plain)
    rest = {n: v for n, v in a.items() if n not in WEIGHTS and n not in ("x", "heads")}
    return lambda: dit_block_reference(x, weights, a["heads"], fast_attention=True, **rest)


def _case(
    variant: str,
    packing: str,
    vectors: tuple[str, ...],
    dtypes: tuple[torch.dtype, ...],
    groups: int = 1,
    **options: Any,
) -> OpCase:
    make = _make(packing, vectors, groups, **options)
    example = make(_SMALL[0], torch.float32, torch.Generator())
    fixed = {"cos", "sin", "mask", *(MATRICES if packing else ())}
    gradients = tuple(n for n, v in example.items() if isinstance(v, torch.Tensor) and n not in fixed)
    bad: list[Spoiled] = [(cut(n), ValueError, n) for n in gradients if n not in ("x", "contract", "v", "k")]
    bad += [(other_dtype(n), TypeError, n) for n in gradients if n != "x"]
    bad += [
        (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        (lambda a: {**a, "heads": 3}, ValueError, "heads"),
        (lambda a: {**a, "eps": -1.0}, ValueError, "eps"),
        (lambda a: {**a, "norm": "batch"}, ValueError, "norm"),
        (lambda a: {**a, "gate_form": "tanh"}, ValueError, "gate_form"),
        (lambda a: {**a, "pairing": "thirds"}, ValueError, "pairing"),
    ]
    if "cross" in vectors:
        bad += [(lambda a: {**a, "v": None}, ValueError, "v"), (cut("v"), ValueError, "v")]
    if "rope" in vectors:
        bad += [(lambda a: {**a, "cos": a["cos"][:-1]}, ValueError, "cos"), (cut("sin"), ValueError, "sin")]
    if "mask" in vectors:
        bad += [(cut("mask"), ValueError, "mask")]
    return OpCase(
        name="dit_block",
        op=_call(dit_block),
        reference=_call(dit_block_reference),
        make=make,
        small=_SMALL,
        variant=variant,
        dtypes=dtypes,
        gradients=gradients,
        gradient_small=_SMALL[:4],
        not_finite=("x",),
        smooth=packing in ("", "float32"),
        overload_arguments=_overload_arguments,
        baseline=_baseline,
        bad=tuple(bad),
        bytes_moved=_bytes,
        eager_bytes=_bytes,
        flops=_flops,
    )


_HEADS = ("q_weight", "k_weight", "q_cross_weight")
_OPEN = ("cross", "rope", "first_weight", "cross_weight", "second_weight", "expand_bias", "contract_bias")
# Rounding x to bfloat16 or int8 jumps, so that float32 is no example for products of other types.
DIT_BLOCK_CASES: tuple[OpCase, ...] = (
    _case(
        "mini", "", ("modulation", "cross", "mask", "rope", "cross_weight", *_HEADS),
        (torch.float32, torch.bfloat16, torch.float16), qk_norm="rms",
    ),
    _case(
        "sa3", "float32",
        ("modulation", "cross", "rope", "first_weight", "cross_weight", "second_weight", *_HEADS),
        (torch.float32,), norm="rms", qk_norm="rms", gate_form="sigmoid",
    ),
    _case(
        "open-small", "bfloat16",
        (*_OPEN, "first_bias", *_HEADS, "q_bias", "k_bias", "q_cross_bias"), (torch.bfloat16,), qk_norm="layer",
    ),
    _case(
        "open-1.0", "bfloat16", _OPEN, (torch.bfloat16,), groups=2,
    ),
    _case(
        "open-1.0-int8", "int8", _OPEN, (torch.bfloat16,), groups=2,
    ),
    _case(
        "uncrossed", "bfloat16", ("qkv_bias", "out_bias"), (torch.bfloat16,), gate_first=True, pairing="interleaved"
    ),
)  # fmt: skip
