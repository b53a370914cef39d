# SPDX-License-Identifier: Apache-2.0
"""THE table of ops: tests, CUDA lanes, benchmarks and `prestissimo bench` all read it.

One entry per op: how to make arguments from a shape, which shapes to try and to time, which arguments have gradients,
what its plain-PyTorch reference is, and the bytes and operations that the arithmetic itself needs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .adaln_modulate import adaln_modulate
from .adaln_modulate import reference as adaln_modulate_reference
from .attention_cases import ATTENTION_CASES
from .conv_cases import CONV_CASES
from .diffusion_cases import DIFFUSION_CASES
from .dit_block_cases import DIT_BLOCK_CASES
from .hidden_cases import HIDDEN_CASES
from .hierarchy_cases import HIERARCHY_CASES
from .linear_cases import LINEAR_CASES
from .op_case import DIT_SIZES, Arguments, OpCase, Shape, Spoiled, cut, noise, other_dtype, rows
from .phase_cases import PHASE_CASES
from .philox_normal import philox_normal
from .philox_normal import reference as philox_normal_reference
from .sampler_step_cases import SAMPLER_STEP_CASES
from .selection_cases import SELECTION_CASES
from .similarity_cases import SIMILARITY_CASES
from .tensor_list_cases import TENSOR_LIST_CASES
from .transformer_cases import TRANSFORMER_CASES
from .whole_sample_cases import WHOLE_SAMPLE_CASES

# ---- adaln_modulate ------------------------------------------------------------------------------------------------

_ADALN_SMALL: tuple[Shape, ...] = (
    (2, 5, 64), (1, 1, 1), (1, 3, 7), (2, 2, 8), (1, 2, 9), (3, 4, 15), (1, 4, 16), (2, 3, 17), (1, 2, 31),
    (2, 129, 33), (1, 65, 131), (2, 3, 331), (0, 4, 16), (2, 0, 16), (1, 64, 320),
)  # fmt: skip


def _adaln_case(
    variant: str, norm: str, modulation: str, affine: str, real: dict[str, Shape] | None = None
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        B, T, C = shape
        vector = {"sample": (B, C), "row": (B, T, C)}.get(modulation)
        return {
            "x": rows(shape, dtype, rng),
            "shift": noise(vector, dtype, rng, 0.3) if vector else None,
            "scale": noise(vector, dtype, rng, 0.1, 0.5) if vector else None,
            "weight": noise((C,), dtype, rng, 1.0, 0.3) if "w" in affine else None,
            "bias": noise((C,), dtype, rng, 0.2, 0.3) if "b" in affine else None,
            "eps": 1e-6,
            "norm": norm,
        }

    gradients = ("x", *(("shift", "scale") if modulation else ()))
    gradients += ("weight",) * ("w" in affine) + ("bias",) * ("b" in affine)
    vectors = [name for name in gradients if name != "x"]
    bad: list[Spoiled] = [(cut(name), ValueError, name) for name in vectors] + [
        (other_dtype(name), TypeError, name) for name in vectors
    ]
    bad += [
        (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        (lambda a: {**a, "eps": -1.0}, ValueError, "eps"),
        (lambda a: {**a, "norm": "batch"}, ValueError, "norm"),
    ]
    # eager: norm reads and writes; each of weight-free scale and shift reads and writes once more
    passes = 2 + 2 * bool(modulation) + 2 * bool(modulation) + 2 * ("b" in affine)
    return OpCase(
        name="adaln_modulate",
        op=adaln_modulate,
        reference=adaln_modulate_reference,
        make=make,
        small=_ADALN_SMALL,
        variant=variant,
        gradients=gradients,
        # dx of a one-channel RMSNorm is its terms times eps / (x^2 + eps): all digits cancel
        gradient_small=tuple(s for s in _ADALN_SMALL if s[-1] > 1 or norm == "layer"),
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: 2 * s[0] * s[1] * s[2] * item,
        eager_bytes=lambda s, item: passes * s[0] * s[1] * s[2] * item,
        flops=lambda s: 9 * s[0] * s[1] * s[2],
    )


# ---- philox_normal ---------------------------------------------------------------------------------------------------


def _philox_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    B, N = shape
    seeds = torch.randint(-(2**63), 2**63 - 1, (B,), generator=rng)
    items = torch.randint(0, 2**32, (B,), generator=rng)
    return {"shape": (N,), "seeds": seeds, "items": items, "stream": 5}


def _philox_reference(shape: Shape, seeds: Tensor, items: Tensor, stream: int) -> Tensor:
    return philox_normal_reference(seeds, items, stream, shape[0])


CASES: tuple[OpCase, ...] = (
    _adaln_case("layer", "layer", "sample", "", DIT_SIZES),
    _adaln_case("rms", "rms", "sample", "", {"open-1.0": (1, 1025, 1536)}),
    _adaln_case("layer-per-row", "layer", "row", ""),
    _adaln_case("rms-per-row-affine", "rms", "row", "w"),
    _adaln_case("layer-affine-modulated", "layer", "sample", "wb"),
    _adaln_case("layer-affine", "layer", "", "wb", {"open-1.0": (1, 1025, 1536)}),
    _adaln_case("rms-affine", "rms", "", "w"),
    _adaln_case("layer-plain", "layer", "", ""),
    OpCase(
        name="philox_normal",
        op=philox_normal,
        reference=_philox_reference,
        make=_philox_make,
        small=((1, 1), (3, 7), (2, 64), (1, 257), (2, 1023), (0, 5), (2, 0), (1, 128 * 345)),
        dtypes=(torch.float32,),
        exact=True,
        overload_arguments=lambda a: (a["seeds"], a["items"], a["stream"], a["shape"][0]),
        bad=(
            (lambda a: {**a, "items": a["items"][:-1]}, ValueError, "items"),
            (lambda a: {**a, "stream": -1}, ValueError, "stream"),
            (lambda a: {**a, "seeds": a["seeds"].to(torch.int32)}, TypeError, "seeds"),
        ),
        real={"mini-32s": (1, 128 * 345), "open-1.0": (8, 64 * 1024)},
        bytes_moved=lambda s, item: 4 * s[0] * s[1],
        eager_bytes=lambda s, item: 4 * s[0] * s[1],
        flops=lambda s: 40 * s[0] * s[1],
    ),
    *ATTENTION_CASES,
    *DIFFUSION_CASES,
    *SAMPLER_STEP_CASES,
    *WHOLE_SAMPLE_CASES,
    *TENSOR_LIST_CASES,
    *PHASE_CASES,
    *LINEAR_CASES,
    *SELECTION_CASES,
    *HIERARCHY_CASES,
    *SIMILARITY_CASES,
    *HIDDEN_CASES,
    *TRANSFORMER_CASES,
    *DIT_BLOCK_CASES,
    *CONV_CASES,
)
