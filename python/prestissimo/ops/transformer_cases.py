# SPDX-License-Identifier: Apache-2.0
"""Cases of the elementwise ops and norms of transformer blocks; part of the table in cases.py."""

from __future__ import annotations

import torch

from .gated_residual import gated_residual
from .gated_residual import reference as gated_residual_reference
from .gated_residual_adaln import gated_residual_adaln
from .gated_residual_adaln import reference as gated_residual_adaln_reference
from .geglu import geglu
from .geglu import reference as geglu_reference
from .op_case import DIT_SIZES, Arguments, OpCase, Shape, Spoiled, cut, noise, other_dtype, rows
from .swiglu import reference as swiglu_reference
from .swiglu import swiglu

# ---- swiglu, geglu: shapes are (batch, tokens, inner width) --------------------------------------------------------

_GATED_SMALL: tuple[Shape, ...] = (
    (2, 5, 32), (1, 1, 1), (1, 3, 7), (2, 2, 8), (1, 2, 9), (3, 4, 15), (1, 4, 16), (2, 3, 17), (1, 2, 31),
    (2, 3, 331), (0, 4, 16), (2, 0, 16), (1, 64, 320),
)  # fmt: skip
# models.md 6.1
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
    _gated_case("swiglu", "", _GATED_SIZES, gate_first=False),
    _gated_case("swiglu", "gate-first", gate_first=True),
    _gated_case("geglu", "", {"t5gemma": (1, 256, 2048)}, gate_first=False, approximate="none"),
    _gated_case("geglu", "tanh", {"t5gemma": (1, 256, 2048)}, gate_first=True, approximate="tanh"),
)
