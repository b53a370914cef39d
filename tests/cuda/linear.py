# SPDX-License-Identifier: Apache-2.0
"""What stands around `linear`'s int8 product, as cases for the CUDA lanes: rows to int8 before, sums to y behind.

The plan holds both launches; the integer sums that cuBLASLt would leave between them lie in the workspace from the
start (test_cublaslt.py has its calls).
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

op = importlib.import_module("prestissimo.ops.linear")
pack = importlib.import_module("prestissimo.ops.pack_linear")

PACKED_INT8 = 3  # Packing::int8
_DTYPE = {"float32": 0, "bfloat16": 1, "float16": 2}


class Args(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("weight_stride_n", ctypes.c_int64),
        ("weight_stride_k", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("M", ctypes.c_int64),
        ("N", ctypes.c_int64),
        ("K", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("lora_scale", ctypes.c_float),
        ("packing", ctypes.c_uint8),
        ("dtype", ctypes.c_uint8),
    )


@dataclass(frozen=True)
class Case:
    M: int
    N: int
    K: int
    dtype: str = "float32"
    bias: bool = True
    pad: int = 0  # values between the rows of x
    misalign: int = 0
    special: str = ""  # what a row holds beside usual numbers: "zero", "inf", "nan", "tiny"

    def __str__(self) -> str:
        words = (
            f"{self.M}x{self.N}x{self.K}-{self.dtype}",
            "bias" * self.bias,
            f"pad{self.pad}" * bool(self.pad),
        )
        return "-".join(w for w in (*words, "misaligned" * bool(self.misalign), self.special) if w)


def _x(case: Case, rng: np.random.Generator) -> torch.Tensor:
    dtype = DTYPES[case.dtype]
    x = inputs(rng, (case.M, case.K), dtype, 0.3)
    row, place = case.M // 2, case.K - 1
    if case.special == "zero":
        x[row] = 0
    elif case.special == "tiny":
        x[row] = float(torch.finfo(dtype).smallest_normal) / 4
    elif case.special:
        x[row, place] = float(case.special)
    return x.to(dtype)


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    rng = np.random.default_rng(hash((case.M, case.N, case.K)) % 2**32)
    dtype, M, N, K = DTYPES[case.dtype], case.M, case.N, case.K
    x = _x(case, rng)
    wide = torch.full((M, K + case.pad), 3.0, dtype=dtype)
    wide[:, :K] = x
    weight = pack.reference(inputs(rng, (N, K), torch.float32, 0.1).float(), None, "int8", "rows")
    bias = inputs(rng, (N,), dtype, 0.5).to(dtype) if case.bias else None
    packed = pack.PackedWeight(weight, "int8", N, K, "rows")

    rows, values = pack.row_sizes("int8", N, K)
    q, scales = pack.quantised_rows(x)
    w, _ = pack.unpacked(weight, "int8", N, K, "rows")
    sums = torch.zeros(M, rows, dtype=torch.int32)
    sums[:, :N] = (q.double() @ w.double().T).to(torch.int32)
    ends = np.cumsum([M * values, -(-M * 4 // 16) * 16, 4 * M * rows])
    filling = torch.full((int(ends[1]),), 0x5A, dtype=torch.uint8)
    workspace = Buffer.of(device, as_bytes(filling) + as_bytes(sums))
    assert workspace.size == op._workspace(x, M, None, "int8-rows", N) == ends[2]

    item = dtype.itemsize
    y = Buffer(device, device.allocate(M * N * item, None, case.misalign * item), M * N * item)
    args = Args(
        x=Buffer.of(device, as_bytes(wide), case.misalign * item).address,
        x_stride=K + case.pad,
        weight=Buffer.of(device, as_bytes(weight)).address,
        bias=None if bias is None else Buffer.of(device, as_bytes(bias), case.misalign * item).address,
        y=y.address,
        workspace=workspace.address,
        M=M,
        N=N,
        K=K,
        packing=PACKED_INT8,
        dtype=_DTYPE[case.dtype],
    )
    findings = run_plan(device, planner, "linear", args)

    contents = workspace.tensor(torch.uint8, (workspace.size,))
    got_q = contents[: ends[0]].view(torch.int8).view(M, values)
    got_scales = contents[ends[0] :][: 4 * M].view(torch.float32)
    wrong = []
    if not torch.equal(got_q[:, :K].float(), q) or got_q[:, K:].any():
        wrong.append(f"x as int8: {int((got_q[:, :K].float() != q).sum())} of {q.numel()} values differ")
    if not torch.equal(got_scales.nan_to_num(-1.0), scales.nan_to_num(-1.0)):
        wrong.append("the scales of x's rows differ")

    def reference(t: torch.dtype) -> torch.Tensor:
        return op.reference(x.to(t), packed, None if bias is None else bias.to(t))

    got, exact, same = y.tensor(dtype, (M, N)), reference(torch.float64), reference(dtype)
    usual = torch.isfinite(exact).all(1)
    if not got[~usual].isnan().all():
        wrong.append("y: a row that is not finite must be NaN throughout")
    wrong += compare("y", got[usual], exact[usual], same[usual])
    return Outcome(findings, wrong, {"y": got, "q": got_q})


# Columns on both sides of a warp, of 256 threads and of the 1024 of a block; K on both sides of 16 and of 256, and long
# enough for loops that nvcc unrolls eight times.
_SHAPES = (
    (1, 1, 1),
    (3, 31, 15),
    (2, 33, 16),
    (5, 255, 17),
    (1, 257, 255),
    (2, 1024, 257),
    (3, 1025, 33),
    (4, 64, 513),
    (2, 40, 2300),
)

CASES = [
    Case(*shape, dtype, bias=(i + j) % 3 > 0, pad=3 * ((i + j) % 2), misalign=(i + j) % 2)
    for j, dtype in enumerate(DTYPES)
    for i, shape in enumerate(_SHAPES)
] + [
    Case(3, 40, 50, dtype, special=special)
    for dtype in DTYPES
    for special in ("zero", "inf", "-inf", "nan", "tiny")
]  # fmt: skip
