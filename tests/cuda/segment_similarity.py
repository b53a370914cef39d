# SPDX-License-Identifier: Apache-2.0
"""`segment_similarity` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import torch

from .cases import DTYPES, Outcome, compare, run_plan
from .devices import Device, HostDevice
from .pairs import PART_FIELDS, TILE, Pairs, compare_number, run_parts

op = importlib.import_module("prestissimo.ops.segment_similarity")


class Args(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("segments", "text")),
        *((name, ctypes.c_int64) for name in ("segment_stride", "text_stride", "B", "S", "N", "E")),
        ("dtype", ctypes.c_uint8),
        *((name, ctypes.c_void_p) for name in ("temperature", "mask")),
        ("mask_stride", ctypes.c_int64),
        ("out", ctypes.c_void_p),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("forward", Args),
        ("dout", ctypes.c_void_p),
        ("dout_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("dsegments", "dtext", "dtemperature", "workspace")),
        ("workspace_size", ctypes.c_int64),
    )


class Part(ctypes.Structure):
    _fields_ = (("args", BackwardArgs), *PART_FIELDS)


@dataclass(frozen=True)
class Case:
    """strip: tiles of whole songs that the backward takes at a time; pitch: elements between rows beyond their own;
    wanted: gradients of segments, of text."""

    B: int
    S: int
    E: int
    N: int
    dtype: str = "float32"
    masked: bool = False
    temperature: float = 0.1
    strip: int = 1
    pitch: int = 0
    wanted: str = "st"

    def __str__(self) -> str:
        words = [f"{self.B}x{self.S}x{self.E}", f"n{self.N}", self.dtype, f"t{self.temperature:g}"]
        words += ["masked"] * self.masked + [f"pitch{self.pitch}"] * bool(self.pitch)
        return "-".join([*words, f"strip{self.strip}", self.wanted])


class _Arrays(Pairs):
    def __init__(self, case: Case, device: Device) -> None:
        super().__init__(device, case.dtype, f"segment_similarity {case}")
        self.case = case
        B, S, E, N = case.B, case.S, case.E, case.N
        self.text = self.unit_rows(N, E)
        listening = torch.from_numpy(self.rng.random((B, S, 1)) < 0.3)
        about = self.text[torch.arange(B) % N][:, None] * listening
        self.segments = self.unit_rows(B, S, E, towards=0.7 * about * E**0.5)
        self.mask = None
        if case.masked:
            self.mask = torch.from_numpy(self.rng.random((B, S)) < 0.7)
            self.mask[:, 0] = True
        self.dout = self.rounded(torch.from_numpy(self.rng.standard_normal((B, N)) + 0.3))

    def pitched(self, x: torch.Tensor) -> tuple[int | None, int]:
        """Address and stride of rows along the last dimension, NaN between them."""
        wide = torch.nn.functional.pad(x, (0, self.case.pitch), value=float("nan"))
        return self.address(wide.to(self.dtype)), wide.shape[-1]

    def results(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """The scores and the gradients of segments, text and temperature by the reference."""
        temperature = torch.tensor(self.case.temperature, dtype=self.dtype)
        leaves = [v.to(dtype).clone().requires_grad_() for v in (self.segments, self.text, temperature)]
        out = op.reference(*leaves, self.mask)
        return [out.detach(), *torch.autograd.grad(out, leaves, self.dout.to(dtype))]


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    v = _Arrays(case, device)
    B, S, E, N = case.B, case.S, case.E, case.N
    segments, segment_stride = v.pitched(v.segments)
    text, text_stride = v.pitched(v.text)
    dout, dout_stride = v.pitched(v.dout)
    out = v.output(B, N)
    # float32 holds what the leaf of this dtype holds
    temperature = v.number(torch.tensor(case.temperature, dtype=v.dtype).float())
    forward = Args(
        *(segments, text, segment_stride, text_stride, B, S, N, E, v.code),
        *(temperature, v.address(v.mask), S, out.address),
    )
    findings = run_plan(device, planner, "segment_similarity", forward)
    outputs = {"s": v.output(B, S, E), "t": v.output(N, E)}
    dtemperature = v.floats(1)
    tile_rows = max(TILE // S, 1) * S
    strip = min(case.strip * tile_rows, B * S)
    size = v.gradient_floats(strip, tile_rows, N, E, 0)
    backward = BackwardArgs(
        *(forward, dout, dout_stride),
        *(outputs[n].address if n in case.wanted else None for n in "st"),
        *(dtemperature.address, v.floats(size).address, size),
    )
    part = lambda numbers: Part(backward, *numbers)  # noqa: E731
    findings += run_parts(device, planner, "segment_similarity_backward", B * S, strip, part)

    exact, same = v.results(torch.float64), v.results(v.dtype)
    # scores and the temperature's gradient are computed in float32, whatever the dtype
    in_float32 = v.results(torch.float32)
    results = {"out": out.tensor(v.dtype, (B, N))}
    wrong = compare("out", results["out"], exact[0], in_float32[0].to(v.dtype))
    for k, (name, shape) in enumerate((("s", (B, S, E)), ("t", (N, E)))):
        if name in case.wanted:
            results[name] = got = outputs[name].tensor(v.dtype, shape)
            wrong += compare(f"d{name}", got, exact[1 + k], same[1 + k], gradient=True)
    results["dtemperature"] = dtemperature.tensor(torch.float32, (1,))
    wrong += compare_number(
        "dtemperature", results["dtemperature"], exact[3], in_float32[3], 1.0, gradient=True
    )
    return Outcome(findings, wrong, results)


# Tiles of several songs and songs of several tiles, full and not; strips of one tile and of more; depths and strides
# that move 16 bytes at a time and that do not, ends of rows at every place of 16 bytes; columns enough for both halves
# of a tile and for all parts of a sum; temperatures so low that e^(the distance of two scores) overflows.
CASES = [
    Case(4, 9, 132, 60),
    Case(1, 1, 1, 1),
    Case(5, 30, 34, 140),
    Case(1, 130, 19, 110, masked=True),
    Case(2, 7, 16, 400, temperature=-0.2, wanted="s"),
    Case(1, 129, 8, 70, temperature=0.002, wanted=""),
    Case(3, 20, 16, 4, "bfloat16", masked=True, temperature=0.002, pitch=3),
    Case(9, 30, 64, 140, "bfloat16", masked=True, strip=2),
    Case(1, 300, 27, 120, "bfloat16"),
    Case(2, 5, 136, 600, "bfloat16", pitch=8),
    Case(1, 129, 8, 70, "bfloat16", temperature=0.002, pitch=3, wanted=""),
    Case(2, 128, 8, 3, "float16", wanted="t"),
    Case(1, 129, 31, 130, "float16", masked=True),
    Case(11, 13, 21, 81, "float16", masked=True, pitch=8, strip=2),
    Case(3, 40, 24, 127, "float16", masked=True, temperature=0.002, pitch=3),
    Case(1, 129, 8, 70, "float16", temperature=0.002, wanted=""),
]
assert {c.dtype for c in CASES} == set(DTYPES)
