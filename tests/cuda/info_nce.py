# SPDX-License-Identifier: Apache-2.0
"""`info_nce` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

import torch

from .cases import DTYPES, Outcome, compare, run_plan
from .devices import Device, HostDevice
from .pairs import PART_FIELDS, TILE, Pairs, compare_number, run_parts, tiles
from .rows import compare_special

op = importlib.import_module("prestissimo.ops.info_nce")


class Args(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("a", "b")),
        *((name, ctypes.c_int64) for name in ("a_stride", "b_stride", "M", "N", "E", "offset")),
        ("dtype", ctypes.c_uint8),
        *((name, ctypes.c_void_p) for name in ("scale", "bias", "mask")),
        ("mask_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("a_group", "b_group")),
        ("normalize", ctypes.c_bool),
        ("form", ctypes.c_uint8),
        *((name, ctypes.c_void_p) for name in ("loss", "row_lse", "column_lse", "workspace")),
        ("workspace_size", ctypes.c_int64),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("forward", Args),
        *((name, ctypes.c_void_p) for name in ("dloss", "da", "db", "dscale", "dbias")),
    )


class Part(ctypes.Structure):
    _fields_ = (("args", BackwardArgs), *PART_FIELDS)


@dataclass(frozen=True)
class Case:
    """chunks: of row tiles and of column tiles at most; strip: tiles of rows that the backward takes at a time;
    wanted: which of a and b get gradients; length: about that of the rows that are normalised; zeros: a row of zeros on
    either side, and, where some are left out, two rows next to it of float16's smallest numbers that take no part, one
    by its group and one by the mask alone."""

    M: int
    E: int
    dtype: str = "float32"
    form: str = "symmetric"
    extra: int = 0
    offset: int = 0
    left_out: bool = False
    normalize: bool = False
    scale: float = 7.0
    chunks: int = 2
    strip: int = 1
    close: bool = True
    wanted: str = "ab"
    length: float = 1.7
    zeros: bool = False

    def __str__(self) -> str:
        words = [f"{self.M}x{self.M + self.extra}x{self.E}", self.dtype, self.form, f"at{self.offset}"]
        words += ["left_out"] * self.left_out + ["normalize"] * self.normalize + ["wide"] * (not self.close)
        words += [f"length{self.length:g}"] * (self.length != Case.length) + ["zeros"] * self.zeros
        return "-".join([*words, f"s{self.scale:g}", f"c{self.chunks}", f"strip{self.strip}", self.wanted])


class _Arrays(Pairs):
    def __init__(self, case: Case, device: Device) -> None:
        super().__init__(device, case.dtype, f"info_nce {case}")
        self.case, self.N = case, case.M + case.extra
        M, N, E = case.M, self.N, case.E
        self.a = self.unit_rows(M, E)
        towards = torch.zeros(N, E, dtype=torch.float64)
        towards[case.offset : case.offset + M] = 0.5 * self.a * E**0.5
        self.b = self.unit_rows(N, E, towards=towards)
        if case.normalize:
            lengths = torch.from_numpy(0.2 + 3 * self.rng.random((M + N, 1))) * (case.length / Case.length)
            self.a, self.b = self.rounded(self.a * lengths[:M]), self.rounded(self.b * lengths[M:])
        self.mask = self.a_group = self.b_group = None
        if case.left_out:
            self.mask = torch.from_numpy(self.rng.random((M, N)) < 0.9)
            groups = torch.from_numpy(self.rng.integers(-1, 4, M + N))
            groups[0] = groups[M + case.offset] = 1  # at least one anchor
            self.mask[0, case.offset] = True
            self.a_group, self.b_group = groups[:M], groups[M:]
        if case.zeros:
            self.a[1] = self.b[-1] = 0
            if case.left_out:
                groups[[2, -2]] = -1
                self.mask[3] = self.mask[:, -3] = False
                self.a[2:4] = self.b[-3:-1] = 2**-24
        self.bias = -4.0 if case.form == "sigmoid" else None
        self.dloss = 0.7

    def numbers(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """a, b, the scale and, where there is one, the bias."""
        bias = [] if self.bias is None else [torch.tensor(self.bias, dtype=dtype)]
        return [self.a.to(dtype), self.b.to(dtype), torch.tensor(self.case.scale, dtype=dtype), *bias]

    def arguments(self, numbers: list[torch.Tensor]) -> tuple[Any, ...]:
        """All that the reference takes."""
        case, bias = self.case, numbers[3] if self.bias is not None else None
        pairs = (self.mask, self.a_group, self.b_group)
        return (*numbers[:3], bias, *pairs, case.form, case.offset, case.normalize)

    def sums(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The log-sum-exps of rows and columns by the reference."""
        _, row, column = op._sums_reference(*self.arguments(self.numbers(dtype)))
        return {"row_lse": row, "column_lse": column}

    def gradients(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """Loss and gradients of a, b, scale and bias by the reference."""
        leaves = [v.clone().requires_grad_() for v in self.numbers(dtype)]
        loss = op.reference(*self.arguments(leaves))
        return [loss.detach(), *torch.autograd.grad(loss, leaves, torch.tensor(self.dloss, dtype=loss.dtype))]


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    v = _Arrays(case, device)
    M, N, E = case.M, v.N, case.E
    loss, results = v.floats(1), {}
    sums = {
        name: v.floats(n, 8) if used else None
        for name, n, used in (
            ("row_lse", M, case.form != "sigmoid"),
            ("column_lse", N, case.form == "symmetric"),
        )
    }
    size = 2 * M + N + (M + N) // 128 + 2 * 32**2 + 64 + 2 * case.chunks * (M + N)
    shared = (
        *(*v.rows(v.a, case.close), *v.rows(v.b, case.close)),
        *(v.number(case.scale), None if v.bias is None else v.number(v.bias)),
        *(v.address(v.mask), v.address(v.a_group), v.address(v.b_group)),
    )
    a, a_stride, b, b_stride, scale, bias, mask, a_group, b_group = shared

    def args(workspace_size: int) -> Args:
        lse = (None if s is None else s.address for s in sums.values())
        return Args(
            *(a, b, a_stride, b_stride, M, N, E, case.offset, v.code, scale, bias, mask, N, a_group, b_group),
            *(case.normalize, op.FORMS.index(case.form), loss.address, *lse),
            *(v.floats(workspace_size).address, workspace_size),
        )

    findings = run_plan(device, planner, "info_nce", args(size))
    outputs = {name: v.output(n, E) for name, n in (("a", M), ("b", N)) if name in case.wanted}
    dscale, dbias = v.floats(1), v.floats(1)
    strip = case.strip * TILE
    backward = BackwardArgs(
        args(v.gradient_floats(min(strip, M), TILE, N, E, 2 * (M + N) + 32)),
        v.number(v.dloss),
        *(outputs[n].address if n in outputs else None for n in "ab"),
        *(dscale.address, dbias.address),
    )
    part = lambda numbers: Part(backward, *numbers)  # noqa: E731
    findings += run_parts(device, planner, "info_nce_backward", M, strip, part)

    # the loss, its log-sum-exps and the gradients of numbers come of sums in float32, whatever the dtype of a and b
    exact, in_float32 = v.gradients(torch.float64), v.gradients(torch.float32)
    results["loss"] = loss.tensor(torch.float32, (1,))
    wrong = compare_number("loss", results["loss"], exact[0], in_float32[0], abs(case.scale))
    exact_sums, same_sums = v.sums(torch.float64), v.sums(torch.float32)
    for name, buffer in sums.items():
        if buffer is not None:
            results[name] = got = buffer.tensor(torch.float64, tuple(exact_sums[name].shape))
            wrong += compare_special(name, got.float(), exact_sums[name], same_sums[name].float())
    # eager float16 divides a row of zeros by zero: its epsilon rounds to that
    same = in_float32 if case.zeros else v.gradients(v.dtype)
    against = compare_special if case.zeros else compare
    for k, (name, n) in enumerate((("a", M), ("b", N))):
        if name not in outputs:
            continue
        results[f"d{name}"] = got = outputs[name].tensor(v.dtype, (n, E))
        wrong += against(f"d{name}", got, exact[1 + k], same[1 + k].to(v.dtype), gradient=True)
    for k, (name, buffer) in enumerate((("dscale", dscale), ("dbias", dbias))):
        results[name] = buffer.tensor(torch.float32, (1,))
        if 3 + k < len(exact):
            wrong += compare_number(name, results[name], exact[3 + k], in_float32[3 + k], 1.0, gradient=True)
    return Outcome(findings, wrong, results)


# One tile and several, in one chunk and several, in strips of one tile and of all; depths that move 16 bytes at a time
# and that do not, of more than one slab; columns enough for all parts of a sum.
CASES = [
    Case(5, 24),
    Case(2, 3, "bfloat16"),
    Case(130, 40, chunks=1),
    Case(130, 88, "bfloat16", chunks=1, left_out=True, normalize=True),
    Case(140, 33, "float16", strip=2, close=False),
    Case(7, 136, "bfloat16", wanted="b"),
    Case(9, 130, wanted="a", scale=60.0, close=False),
    Case(60, 20, form="rows", extra=90, offset=30, left_out=True),
    Case(129, 64, "bfloat16", "rows", extra=11, offset=11, normalize=True, chunks=1),
    Case(10, 16, "float16", "rows", extra=590, offset=300),
    Case(70, 17, "bfloat16", "sigmoid", extra=80, offset=50, left_out=True),
    Case(131, 16, form="sigmoid", normalize=True, chunks=1, strip=2),
    Case(33, 136, "float16", "sigmoid", extra=1, offset=1, normalize=True),
    # 7 / length^2 beyond float16, and its gradients below
    Case(12, 24, "float16", normalize=True, length=2e-3),
    Case(140, 24, "float16", "rows", normalize=True, length=300.0),
    Case(140, 24, "float16", normalize=True, left_out=True, zeros=True),
    Case(9, 24, "float16", "sigmoid", extra=3, offset=2, normalize=True, scale=-3.0, zeros=True),
    Case(6, 16, "bfloat16", normalize=True, zeros=True),
]
assert {c.dtype for c in CASES} == set(DTYPES)
assert any(tiles(c.M) > c.strip for c in CASES)
