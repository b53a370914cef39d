# SPDX-License-Identifier: Apache-2.0
"""The kernels of probes.cuh as cases: attention, a product, warp operations, atomics, exp2."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .cases import Buffer, Outcome, as_bytes, compare, inputs
from .devices import Device, HostDevice, Size3


@dataclass(frozen=True)
class Case:
    kernel: str
    size: int
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.kernel}-{self.batch}x{self.size}"


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    return _KERNELS[case.kernel](case, device)


def _launch(
    device: Device, kernel: str, grid: Size3, threads: int, layout: str, *values: float, shared: int = 0
) -> list[str]:
    """`layout`: P pointer, i int32, f float, as C lays a kernel's parameters out."""
    packed = struct.pack("@" + layout.replace("P", "Q"), *values)
    return device.launch(kernel, grid, (threads, 1, 1), packed, shared)


def _attention(case: Case, device: Device) -> Outcome:
    S, H, D = case.size, case.batch, 64
    rng = np.random.default_rng([S, H])
    q, k, v = (inputs(rng, (H, S, D), torch.bfloat16, mean=m) for m in (0.0, 0.0, 0.5))
    addresses = [Buffer.of(device, as_bytes(t.bfloat16())).address for t in (q, k, v)]
    out = Buffer.empty(device, 2 * H * S * D)
    scale = math.log2(math.e) / math.sqrt(D)
    grid = (-(-S // 64), H, 1)
    findings = _launch(device, "probe_attention", grid, 128, "PPPPif", *addresses, out.address, S, scale)

    def reference(dtype: torch.dtype) -> torch.Tensor:
        probabilities = torch.softmax(q.to(dtype) @ k.to(dtype).transpose(1, 2) / math.sqrt(D), -1)
        return probabilities @ v.to(dtype)

    got = out.tensor(torch.bfloat16, (H, S, D))
    wrong = compare("out", got, reference(torch.float64), reference(torch.bfloat16))
    return Outcome(findings, wrong, {"out": got})


def _product(case: Case, device: Device) -> Outcome:
    M, N, K = 32 * case.batch, 16, case.size
    rng = np.random.default_rng([M, K])
    a, b = (inputs(rng, shape, torch.float16, mean=0.3) for shape in ((M, K), (K, N)))
    addresses = [Buffer.of(device, as_bytes(t.half())).address for t in (a, b)]
    out = Buffer.empty(device, 4 * M * N)
    grid, shared = (N // 8, M // 32, 1), 2 * 32 * 24 * 2
    layout = "PPPii"
    findings = _launch(
        device, "probe_product", grid, 64, layout, *addresses, out.address, N, K, shared=shared
    )
    got = out.tensor(torch.float32, (M, N))
    return Outcome(findings, compare("out", got, a @ b, a.float() @ b.float()), {"out": got})


def _integers(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(-100, 100, n).astype(np.int32)


def _warp(case: Case, device: Device) -> Outcome:
    n = 32 * case.size
    x = _integers(np.random.default_rng(n), n)
    out = Buffer.empty(device, 4 * 16 * n)
    address = Buffer.of(device, x.tobytes()).address
    findings = _launch(device, "probe_warp", (1, 1, 1), n, "PP", address, out.address)
    got = np.frombuffer(device.read(out.address, out.size), np.uint32).reshape(n, 16)
    expected = np.concatenate([_warp_reference(w) for w in x.reshape(-1, 32)])
    columns = sorted({int(c) for c in np.nonzero(got != expected)[1]})
    return Outcome(findings, [f"result {c} of warp operations differs" for c in columns])


def _agrees(x: int, mask: int) -> Callable[[int], bool]:
    return lambda y: y & mask == x & mask


def _warp_reference(v: np.ndarray) -> np.ndarray:
    """The 16 results of every lane of one warp, lane by lane."""
    values = [int(x) for x in v]

    def bits(holds: Callable[[int], bool], lanes: range) -> int:
        return sum(1 << j for j in lanes if holds(values[j]))

    rows = []
    every = range(32)
    for lane, x in enumerate(values):
        group = range(20) if lane < 20 else range(20, 32)
        lower = lane < 20
        result = [
            bits(lambda y: y > 0, every),
            int(any(y > 90 for y in values)) | int(all(y > -90 for y in values)) << 1,
            bits(_agrees(x, 3), every),
            sum(values),
            min(values),
            max(values),
            int(np.bitwise_xor.reduce(v.view(np.uint32))),
            values[lane // 8 * 8 + (lane + 5) % 8],
            values[lane - 3] if lane >= 3 else x,
            values[lane + 3] if lane % 16 + 3 < 16 else x,
            values[lane ^ 9],
            bits((lambda y: y > 0) if lower else (lambda y: y < 0), group),
            sum(values[:20]) if lower else max(values[20:]),
            values[19 - lane] if lower else values[51 - lane],
            bits(_agrees(x, 1 if lower else 7), group),
        ]
        u = x & 0xFFFFFFFF
        leading, lowest = 32 - u.bit_length(), (u & -u).bit_length()
        result.append(result[0].bit_count() + 64 * leading + 4096 * lowest)
        rows.append([r & 0xFFFFFFFF for r in result])
    return np.array(rows, np.uint32)


def _atomics(case: Case, device: Device) -> Outcome:
    n = case.size
    x = _integers(np.random.default_rng(n), n)
    start = np.array([0] * 8 + [-1000, 1000, 0, -1, 0], np.int32)
    out = Buffer.of(device, start.tobytes())
    address = Buffer.of(device, x.tobytes()).address
    findings = _launch(device, "probe_atomics", (-(-n // 64), 1, 1), 64, "PPi", address, out.address, n)
    got = np.frombuffer(device.read(out.address, out.size), np.int32)
    expected = [*np.bincount(x & 7, minlength=8), x.max(), x.min()]
    wrong = [f"atomics: {list(got[:10])}, expected {expected}"] if list(got[:10]) != expected else []
    if got[10] != np.bitwise_or.reduce(np.int32(1) << (x & 31)):
        wrong.append("atomics: or of bits")
    if not 0 <= got[11] < n or got[12] != 1:
        wrong.append("atomics: compare-and-swap had not exactly one winner")
    return Outcome(findings, wrong)


def _exp2(case: Case, device: Device) -> Outcome:
    x = np.linspace(-149, 127.9, case.size).astype(np.float32)
    out = Buffer.empty(device, 4 * case.size)
    address = Buffer.of(device, x.tobytes()).address
    findings = _launch(
        device, "probe_exp2", (-(-case.size // 64), 1, 1), 64, "PPi", address, out.address, case.size
    )
    got = np.frombuffer(device.read(out.address, out.size), np.float32).astype(np.float64)
    exact = np.exp2(x.astype(np.float64))
    normal = exact >= np.finfo(np.float32).tiny
    off = np.abs(got - exact)
    wrong = off[normal] > exact[normal] * 2.0**-21
    low = off[~normal] > 2.0**-149
    return Outcome(
        findings, [f"exp2: {int(wrong.sum() + low.sum())} values are off"] if wrong.any() or low.any() else []
    )


_KERNELS: dict[str, Callable[[Case, Device], Outcome]] = {
    "attention": _attention,
    "product": _product,
    "warp": _warp,
    "atomics": _atomics,
    "exp2": _exp2,
}

# Lengths with every residue that a tile of 64 queries, 16 rows of a warp and 32 keys can leave.
CASES = [Case("attention", s, 2 if s > 100 else 1) for s in (1, 8, 15, 31, 32, 33, 47, 64, 65, 97, 134)]
CASES += [Case("product", 16), Case("product", 32, 2), Case("product", 80)]
CASES += [Case("warp", 1), Case("warp", 4), Case("atomics", 50), Case("atomics", 300), Case("exp2", 300)]
