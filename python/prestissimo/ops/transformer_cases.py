# SPDX-License-Identifier: Apache-2.0
"""Cases of the elementwise ops and norms of transformer blocks; part of the table in cases.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .gated_residual import gated_residual
from .gated_residual import reference as gated_residual_reference
from .gated_residual_adaln import gated_residual_adaln
from .gated_residual_adaln import reference as gated_residual_adaln_reference
from .geglu import geglu
from .geglu import reference as geglu_reference
from .op_case import DIT_SIZES, Arguments, OpCase, Shape, Spoiled, cut, noise, other_dtype, rows
from .qk_norm_rope import qk_norm_rope
from .qk_norm_rope import reference as qk_norm_rope_reference
from .swiglu import reference as swiglu_reference
from .swiglu import swiglu

# ---- swiglu, geglu: shapes are (batch, tokens, inner width) --------------------------------------------------------

_GATED_SMALL: tuple[Shape, ...] = (
    (2, 5, 32), (1, 1, 1), (1, 3, 7), (2, 2, 8), (1, 2, 9), (3, 4, 15), (1, 4, 16), (2, 3, 17), (1, 2, 31),
    (2, 3, 331), (0, 4, 16), (2, 0, 16), (1, 64, 320),
)  # fmt: skip
# The bundled model's and Stable Audio's feed-forward: batch, tokens, inner width
_GATED_SIZES: dict[str, Shape] = {
    "mini-32s": (1, 345, 768),
    "open-small": (1, 257, 4096),
    "open-1.0": (1, 1025, 6144),
    "sa3-medium-380s": (1, 4160, 6144),
}


def _gated_case(name: str, variant: str, real: dict[str, Shape] | None = None, **options: object) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        B, T, F = shape
        return {"x": rows((B, T, 2 * F), dtype, rng), **options}

    bad: list[Spoiled] = [(lambda a: {**a, "x": a["x"][..., :-1]}, ValueError, "x")]
    if "approximate" in options:
        bad.append((lambda a: {**a, "approximate": "erf"}, ValueError, "approximate"))
    return OpCase(
        name=name,
        op={"swiglu": swiglu, "geglu": geglu}[name],
        reference={"swiglu": swiglu_reference, "geglu": geglu_reference}[name],
        make=make,
        small=_GATED_SMALL,
        variant=variant,
        gradients=("x",),
        gradient_small=_GATED_SMALL,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: 3 * s[0] * s[1] * s[2] * item,
        eager_bytes=lambda s, item: 5 * s[0] * s[1] * s[2] * item,
        flops=lambda s: 12 * s[0] * s[1] * s[2],
    )


# ---- gated_residual: shapes are (batch, tokens, width) ---------------------------------------------------------------

_SMALL: tuple[Shape, ...] = (
    (2, 5, 64), (1, 1, 1), (1, 3, 7), (2, 2, 8), (1, 2, 9), (3, 4, 15), (1, 4, 16), (2, 3, 17), (1, 2, 31),
    (2, 129, 33), (1, 65, 131), (2, 3, 331), (0, 4, 16), (2, 0, 16), (1, 64, 320),
)  # fmt: skip
_SIZES = {k: DIT_SIZES[k] for k in ("mini-32s", "open-small", "open-1.0", "sa3-medium-380s")}
_NARROW = (torch.bfloat16, torch.float16)


def _residual_case(
    variant: str, form: str, mixed: bool = False, real: dict[str, Shape] | None = None
) -> OpCase:
    """mixed: the stream is float32 whatever the dtype of the branch."""

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        B, _, C = shape
        stream = torch.promote_types(dtype, torch.float32) if mixed else dtype
        return {
            "x": rows(shape, stream, rng),
            "branch": rows(shape, dtype, rng),
            "gate": noise((B, C), stream, rng, 0.3),
            "gate_form": form,
        }

    bad: list[Spoiled] = [(cut(name), ValueError, name) for name in ("branch", "gate")]
    bad += [
        (other_dtype("gate"), TypeError, "gate"),
        (lambda a: {**a, "branch": a["branch"].double()}, TypeError, "branch"),
        (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        (lambda a: {**a, "gate_form": "tanh"}, ValueError, "gate_form"),
    ]
    return OpCase(
        name="gated_residual",
        op=gated_residual,
        reference=gated_residual_reference,
        make=make,
        small=_SMALL,
        variant=variant,
        dtypes=_NARROW if mixed else (torch.float32, *_NARROW),
        gradients=("x", "branch", "gate"),
        gradient_small=_SMALL,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: s[0] * s[1] * s[2] * ((8 if mixed else 2 * item) + item),
        # the product is read and written once more
        eager_bytes=lambda s, item: s[0] * s[1] * s[2] * ((16 if mixed else 4 * item) + item),
        flops=lambda s: 2 * s[0] * s[1] * s[2],
    )


def _residual_adaln_case(
    variant: str,
    gate: str = "plain",
    norm: str = "layer",
    modulation: str = "sample",
    affine: str = "",
    mixed: bool = False,
    real: dict[str, Shape] | None = None,
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        B, T, C = shape
        stream = torch.promote_types(dtype, torch.float32) if mixed else dtype
        vector = {"sample": (B, C), "row": (B, T, C)}.get(modulation)
        return {
            "x": rows(shape, stream, rng),
            "branch": rows(shape, dtype, rng),
            "gate": noise((B, C), stream, rng, 0.3) if gate else None,
            "shift": noise(vector, stream, rng, 0.3) if vector else None,
            "scale": noise(vector, stream, rng, 0.1, 0.5) if vector else None,
            "weight": noise((C,), stream, rng, 1.0, 0.3) if "w" in affine else None,
            "bias": noise((C,), stream, rng, 0.2, 0.3) if "b" in affine else None,
            "eps": 1e-6,
            "norm": norm,
            "gate_form": gate or "plain",
        }

    vectors = [*["gate"] * bool(gate), *(("shift", "scale") if modulation else ())]
    vectors += [*["weight"] * ("w" in affine), *["bias"] * ("b" in affine)]
    bad: list[Spoiled] = [(cut(name), ValueError, name) for name in ("branch", *vectors)]
    bad += [(other_dtype(name), TypeError, name) for name in vectors]
    bad += [
        (lambda a: {**a, "branch": a["branch"].double()}, TypeError, "branch"),
        (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        (lambda a: {**a, "eps": -1.0}, ValueError, "eps"),
        (lambda a: {**a, "norm": "batch"}, ValueError, "norm"),
        (lambda a: {**a, "gate_form": "tanh"}, ValueError, "gate_form"),
    ]
    # of eager beyond the norm's read and write: product and sum of the gate, of the scale, sum of shift and bias
    gated, modulated, biased = 5 if gate else 3, 4 if modulation else 0, 2 if "b" in affine else 0

    def eager(s: Shape, item: int) -> int:
        stream = 4 if mixed else item
        narrow = 4 + item if mixed else 0  # y to the branch's dtype
        return s[0] * s[1] * s[2] * ((gated - 1 + 2 + modulated + biased) * stream + item + narrow)

    return OpCase(
        name="gated_residual_adaln",
        op=gated_residual_adaln,
        reference=gated_residual_adaln_reference,
        make=make,
        small=_SMALL,
        variant=variant,
        dtypes=_NARROW if mixed else (torch.float32, *_NARROW),
        gradients=("x", "branch", *vectors),
        # dx of a one-channel RMSNorm is its terms times eps / (r^2 + eps): all digits cancel
        gradient_small=tuple(s for s in _SMALL if s[-1] > 1 or norm == "layer"),
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: s[0] * s[1] * s[2] * ((8 if mixed else 2 * item) + 2 * item),
        eager_bytes=eager,
        flops=lambda s: 11 * s[0] * s[1] * s[2],
    )


# ---- qk_norm_rope: shapes are (batch, tokens, head dim), then heads and heads of keys if not the variant's ----------

_HEADS_SMALL: tuple[Shape, ...] = (
    (2, 5, 64), (1, 1, 1), (1, 3, 7), (2, 2, 8), (1, 2, 9), (3, 4, 15), (1, 4, 16), (2, 3, 17), (1, 2, 31),
    (2, 66, 33), (1, 3, 131), (1, 2, 128), (0, 4, 16), (2, 0, 16),
)  # fmt: skip
_HEAD_VECTORS = ("q_weight", "k_weight", "q_bias", "k_bias", "q_alpha", "k_alpha")


def _doubled(name: str) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, name: a[name].double()}


def _heads_case(
    variant: str,
    norm: str,
    affine: str = "",
    rotated: float = 1.0,
    pairing: str = "half",
    heads: tuple[int, int] = (2, 2),
    packed: bool = True,
    wide: bool = False,
    real: dict[str, Shape] | None = None,
    more: tuple[Shape, ...] = (),
) -> OpCase:
    """rotated: which part of a head is; heads (3, 0) are queries alone; wide: the vectors are float32; more: small
    shapes beside those of every variant."""

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        (B, T, D), (H, Hk) = shape[:3], shape[3:] or heads
        half = int(D * rotated) // 2
        of_vectors = torch.promote_types(dtype, torch.float32) if wide else dtype
        angle = noise((T, half), torch.promote_types(dtype, torch.float32), rng, std=3.0)
        x = rows((B, T, D * (H + 2 * Hk)), dtype, rng) if packed else rows((B, T, H, D), dtype, rng)

        def vector(name: str) -> Tensor | None:
            if name[2] not in affine or (not Hk and name[0] == "k"):
                return None
            return noise((1 if name[2] == "a" else D,), of_vectors, rng, 0.2 if name[2] == "b" else 1.0, 0.3)

        return {
            "qkv": x,
            "k": rows((B, T, Hk, D), dtype, rng) if Hk and not packed else None,
            "cos": angle.cos() if rotated else None,
            "sin": angle.sin() if rotated else None,
            **{name: vector(name) for name in _HEAD_VECTORS},
            "heads": H if packed else 0,
            "kv_heads": Hk if packed else 0,
            "norm": norm,
            "eps": 1e-6,
            "pairing": pairing,
        }

    vectors = [v for v in _HEAD_VECTORS if v[2] in affine and (heads[1] or v[0] == "q")]
    arrays = ["qkv", *["k"] * bool(heads[1] and not packed)]
    bad: list[Spoiled] = [(cut(name), ValueError, name) for name in vectors]
    bad += [(_doubled(name), TypeError, name) for name in (*arrays[1:], *vectors)]
    if rotated:
        bad += [
            (lambda a: {**a, "cos": a["cos"][1:]}, ValueError, "cos"),
            (lambda a: {**a, "sin": a["sin"][:, 1:]}, ValueError, "sin"),
            (lambda a: {**a, "sin": None}, ValueError, "sin"),
            (lambda a: {**a, "cos": a["cos"].half()}, TypeError, "cos"),
        ]
    if packed:
        bad += [
            (cut("qkv"), ValueError, "qkv"),
            (lambda a: {**a, "heads": -1}, ValueError, "heads"),
            (lambda a: {**a, "k": a["qkv"]}, ValueError, "k"),
        ]
    bad += [
        (lambda a: {**a, "qkv": a["qkv"][0, 0]}, ValueError, "qkv"),
        (lambda a: {**a, "norm": "batch"}, ValueError, "norm"),
        (lambda a: {**a, "pairing": "thirds"}, ValueError, "pairing"),
        (lambda a: {**a, "eps": -1.0}, ValueError, "eps"),
    ]

    def elements(s: Shape) -> int:
        H, Hk = s[3:] or heads
        return s[0] * s[1] * s[2] * (H + Hk)

    def eager(s: Shape, item: int) -> int:
        """Norm and bias, four products, two sums, a stack, a concatenation; 16 bits widened before, cut after."""
        passes = 2 * (norm != "none") + 2 * ("b" in affine) + (9 * rotated + 2) * (rotated > 0)
        return int(elements(s) * (4 * passes + (2 * (item + 4) if item < 4 else 0)))

    return OpCase(
        name="qk_norm_rope",
        op=qk_norm_rope,
        reference=qk_norm_rope_reference,
        make=make,
        small=_HEADS_SMALL + more,
        variant=variant,
        dtypes=_NARROW if wide else (torch.float32, *_NARROW),
        gradients=(*arrays, *vectors),
        terms={name: 30.0 for name in ("q_alpha", "k_alpha")},
        # as for gated_residual_adaln
        gradient_small=tuple(s for s in _HEADS_SMALL if s[2] > 1 or norm != "rms"),
        overload_arguments=lambda a: tuple(a.values()),
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: 2 * elements(s) * item,
        eager_bytes=eager,
        flops=lambda s: 8 * elements(s),
    )


TRANSFORMER_CASES: tuple[OpCase, ...] = (
    _residual_case("", "plain", real=_SIZES),
    _residual_case("sigmoid", "sigmoid", real={"sa3-medium-380s": DIT_SIZES["sa3-medium-380s"]}),
    _residual_case("float32-stream", "plain", mixed=True, real=_SIZES),
    _residual_adaln_case("", real=_SIZES),
    _residual_adaln_case("rms-sigmoid", "sigmoid", "rms", real={"open-1.0": DIT_SIZES["open-1.0"]}),
    _residual_adaln_case(
        "no-gate-affine", "", modulation="", affine="wb", real={"open-1.0": DIT_SIZES["open-1.0"]}
    ),
    _residual_adaln_case("per-row-affine", modulation="row", affine="wb"),
    _residual_adaln_case("float32-stream", mixed=True, real=_SIZES),
    _residual_adaln_case("float32-stream-rms-affine", "", "rms", "", "w", mixed=True),
    _heads_case("", "rms", "w", real={"mini-32s": (1, 345, 64, 5, 5)}, more=((1, 3, 64, 17, 18),)),
    _heads_case(
        "partial",
        "rms",
        "w",
        rotated=0.5,
        wide=True,
        real={"sa3-small": (1, 320, 64, 16, 16), "sa3-medium-380s": (1, 4160, 64, 24, 24)},
    ),
    _heads_case("layer", "layer", "wb", rotated=0.5, real={"open-small": (1, 257, 128, 8, 8)}),
    _heads_case("rope-alone", "none", rotated=0.5, real={"open-1.0": (1, 1025, 64, 24, 24)}),
    _heads_case(
        "grouped-interleaved",
        "rms",
        "w",
        pairing="interleaved",
        heads=(4, 2),
        real={"ace-step-1.5": (1, 3000, 128, 16, 8)},
    ),
    _heads_case("dyt", "dyt", "wba", rotated=0.5, heads=(3, 1), packed=False),
    _heads_case(
        "queries-alone", "rms", "w", 0.0, heads=(3, 0), packed=False, real={"open-1.0": (1, 1025, 64, 24, 0)}
    ),
    _gated_case("swiglu", "", _GATED_SIZES, gate_first=False),
    _gated_case("swiglu", "gate-first", gate_first=True),
    _gated_case("geglu", "", {"t5gemma": (1, 256, 2048)}, gate_first=False, approximate="none"),
    _gated_case("geglu", "tanh", {"t5gemma": (1, 256, 2048)}, gate_first=True, approximate="tanh"),
)
