# SPDX-License-Identifier: Apache-2.0
"""`qk_norm_rope` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, as_bytes, inputs, run_plan
from .devices import Device, HostDevice
from .gated_residual import STREAMS, TIME_BLOCK
from .pairs import compare_number
from .rows import NOT_FINITE, compare_special, put_special, special_words

op = importlib.import_module("prestissimo.ops.qk_norm_rope")
SUMS = ("weight", "bias", "alpha")


class HeadView(ctypes.Structure):
    """HeadView and HeadOutput of csrc/ops/qk_norm_rope.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("time_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class Heads(ctypes.Structure):
    _fields_ = (
        ("x", HeadView),
        ("y", HeadView),
        *((name, ctypes.c_void_p) for name in SUMS),
        ("heads", ctypes.c_int64),
    )


class Args(ctypes.Structure):
    _fields_ = (
        ("q", Heads),
        ("k", Heads),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "time", "dim", "half")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_uint8) for name in ("norm", "pairing", "dtype", "vectors_dtype")),
    )


class HeadGradients(ctypes.Structure):
    _fields_ = (
        ("dy", HeadView),
        ("dx", HeadView),
        *((f"d{name}", ctypes.c_void_p) for name in SUMS),
        ("partial", ctypes.c_void_p),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (("forward", Args), ("q", HeadGradients), ("k", HeadGradients))


@dataclass(frozen=True)
class Case:
    """vectors: which of weight, bias and alpha there are, by their first letters; half: pairs that rotate."""

    batch: int
    time: int
    heads: tuple[int, int]  # of q and of k
    dim: int
    half: int
    dtype: str = "float32"  # of the vectors
    head_dtype: str = "float32"
    norm: str = "rms"
    vectors: str = "w"
    pairing: str = "half"
    misalign: int = 0  # elements that q lies off its alignment
    special: float | None = None  # a value in the last head of q

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.time}x{self.heads[0]}+{self.heads[1]}x{self.dim}r{2 * self.half}"]
        words += [self.dtype, self.head_dtype, self.norm, self.vectors or "bare", self.pairing]
        return "-".join(words + ["misaligned"] * bool(self.misalign) + special_words(self.special))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Forward, then backward; gradients by autograd through the reference."""
    of_vectors, dtype = DTYPES[case.dtype], DTYPES[case.head_dtype]
    rng = np.random.default_rng([case.batch, case.time, case.dim, *case.heads])
    B, T, D = case.batch, case.time, case.dim
    angle = torch.from_numpy(rng.standard_normal((T, case.half)) * 3)
    tables = {"cos": angle.cos().float(), "sin": angle.sin().float()} if case.half else {}
    sides = dict(zip("qk", case.heads, strict=True))
    x = {s: inputs(rng, (B, T, H * D), dtype, mean=0.5).reshape(B, T, H, D) for s, H in sides.items()}
    put_special(x["q"], case.special)
    dy = {s: inputs(rng, (B, T, H * D), dtype, mean=0.3).reshape(B, T, H, D) for s, H in sides.items()}
    vectors = {
        f"{s}_{name}": inputs(rng, (1 if name == "alpha" else D,), of_vectors, mean=0.6, spread=0.3)
        for s in sides
        for name in SUMS
        if name[0] in case.vectors and sides[s]
    }

    def address(values: torch.Tensor, kind: torch.dtype, misalign: int = 0) -> int:
        return Buffer.of(device, as_bytes(values.to(kind)), misalign=misalign * kind.itemsize).address

    def head_view(at: int, H: int) -> HeadView:
        return HeadView(at, T * H * D, H * D, D) if H else HeadView()

    def output(H: int) -> Buffer:
        return Buffer.empty(device, B * T * H * D * dtype.itemsize)

    y = {s: output(H) for s, H in sides.items()}
    at = {k: address(v, of_vectors) for k, v in vectors.items()}
    heads = {
        s: Heads(
            x=head_view(address(x[s], dtype, case.misalign * (s == "q")), H) if H else HeadView(),
            y=head_view(y[s].address, H),
            heads=H,
            **{name: at.get(f"{s}_{name}") for name in SUMS},
        )
        for s, H in sides.items()
    }
    args = Args(
        **heads,
        **{name: address(table, torch.float32) for name, table in tables.items()},
        batch=B,
        time=T,
        dim=D,
        half=case.half,
        eps=1e-6,
        norm=op.NORMS.index(case.norm),
        pairing=("half", "interleaved").index(case.pairing),
        dtype=tuple(DTYPES).index(case.head_dtype),
        vectors_dtype=tuple(DTYPES).index(case.dtype),
    )
    findings = run_plan(device, planner, "qk_norm_rope", args)
    dx = {s: output(H) for s, H in sides.items()}
    dv = {k: Buffer.empty(device, v.numel() * of_vectors.itemsize) for k, v in vectors.items()}
    gradients = {}
    for s, H in sides.items():
        mine = {f"d{n}": dv[f"{s}_{n}"].address for n in SUMS if f"{s}_{n}" in dv}
        rows = B * -(-T // TIME_BLOCK) * H
        gradients[s] = HeadGradients(
            dy=head_view(address(dy[s], dtype), H) if H else HeadView(),
            dx=head_view(dx[s].address, H),
            partial=Buffer.empty(device, 4 * max(1, len(mine) * rows * D)).address,
            **mine,
        )
    findings += run_plan(device, planner, "qk_norm_rope_backward", BackwardArgs(args, **gradients))

    def reference(head: torch.dtype, vector: torch.dtype, table: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = {s: v.to(head) for s, v in x.items()}
        leaves |= {k: v.to(vector) for k, v in vectors.items()}
        for leaf in leaves.values():
            leaf.requires_grad_()
        q, k, *rest = leaves.values()
        out = op.reference(
            q,
            **{name: t.to(table) for name, t in tables.items()},
            **dict(zip(vectors, rest, strict=True)),
            k=k if case.heads[1] else None,
            norm=case.norm,
            pairing=case.pairing,
        )
        wanted = [leaf for leaf in leaves.values() if leaf.numel()]
        used = [(o, dy[s].to(o.dtype)) for o, s in zip(out, sides, strict=True) if o.requires_grad]
        results, given = zip(*used, strict=True)
        grads = torch.autograd.grad(results, wanted, given)
        found = {s: o.detach() for s, o in zip(sides, out, strict=True)}
        names = [k for k, leaf in leaves.items() if leaf.numel()]
        return found | {f"d{k}": g for k, g in zip(names, grads, strict=True)}

    got = {s: y[s].tensor(dtype, (B, T, H, D)) for s, H in sides.items() if H}
    got |= {f"d{s}": dx[s].tensor(dtype, (B, T, H, D)) for s, H in sides.items() if H}
    got |= {f"d{k}": dv[k].tensor(of_vectors, tuple(v.shape)) for k, v in vectors.items()}
    exact, same = reference(*[torch.float64] * 3), reference(dtype, of_vectors, torch.float32)
    wrong = []
    for k, v in got.items():
        if (
            v.numel() == 1 and not case.special
        ):  # a sum of terms of size one: rounding is relative to its parts
            terms = B * T * sides[k[1]] * D
            wrong += compare_number(k, v, exact[k], same[k], terms**0.5, gradient=True)
        else:
            wrong += compare_special(k, v, exact[k], same[k], gradient=k not in sides)
    return Outcome(findings, wrong, got)


def _sweep() -> list[Case]:
    """Every pair of types; groups of one lane to 32, heads that a lane holds in parts, whole and ragged ends of time,
    ragged ones of heads, each norm, both pairings, queries alone."""
    cases = []
    kinds = (("rms", "w"), ("layer", "wb"), ("none", ""), ("dyt", "wba"), ("rms", ""), ("layer", "b"))
    for d, (dtype, head) in enumerate(STREAMS):
        lanes = 16 // DTYPES[head].itemsize
        shapes = [
            (1, 65, (2, 2), 64, 32),
            (2, 3, (3, 1), 64, 16),
            (1, 5, (1, 1), 128, 32),
            (2, 2, (2, 1), 256, 128),
            (1, 64, (1, 2), 2 * lanes, lanes),
            (1, 3, (2, 1), 2 * lanes, 0),
            (2, 2, (1, 1), 33, 8),
            (1, 66, (1, 1), 7, 3),
        ]
        for n, shape in enumerate(shapes):
            norm, vectors = kinds[(n + d) % 6]
            pairing = ("half", "interleaved")[(n // 2 + d) % 2]
            cases.append(Case(*shape, dtype, head, norm, vectors, pairing))
        cases += [
            Case(1, 2, (2, 2), 64, 32, dtype, head, misalign=1),
            Case(1, 2, (1, 1), 251, 125, dtype, head, "layer", "wb"),
            Case(1, 3, (1, 1), 4, 1, dtype, head, "layer", "w", "interleaved"),
            Case(1, 3, (3, 0), 64, 0, dtype, head, "layer", "wb"),
            Case(2, 65, (2, 1), 2 * lanes, lanes, dtype, head, "dyt", "wba", "interleaved"),
        ]
        for n, special in enumerate(NOT_FINITE[: 1 + d % 3]):
            norm, vectors = kinds[(d + n) % 4]
            cases.append(Case(1, 2, (2, 1), 2 * lanes, lanes, dtype, head, norm, vectors, special=special))
    return cases


CASES = _sweep()
