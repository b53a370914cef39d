# SPDX-License-Identifier: Apache-2.0
"""`attention` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import DTYPES, Buffer, Outcome, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

op = importlib.import_module("prestissimo.ops.attention")


class Heads(ctypes.Structure):
    """HeadsView and HeadsOutput of csrc/ops/attention.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("time_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class Args(ctypes.Structure):
    _fields_ = (
        ("softmaxes", ctypes.c_int),
        ("q", Heads),
        ("k", Heads),
        ("v", Heads),
        ("q2", Heads),
        ("k2", Heads),
        ("mask", ctypes.c_void_p),
        ("mask_stride", ctypes.c_int64),
        ("lengths", ctypes.c_void_p),
        ("y", Heads),
        ("y2", Heads),
        ("lse", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("queries", ctypes.c_int64),
        ("keys", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("left", ctypes.c_int64),
        ("right", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("dtype", ctypes.c_uint8),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("forward", Args),
        ("dy", Heads),
        *((name, Heads) for name in ("dq", "dk", "dv", "dq2", "dk2")),
        ("rows", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Case:
    queries: int
    keys: int
    head_dim: int
    dtype: str = "bfloat16"
    batch: int = 1
    heads: tuple[int, int] = (1, 1)
    window: tuple[int, int] = (-1, -1)
    mask: bool = False
    lengths: bool = False
    differential: bool = False
    misalign: int = 0  # elements that q and y lie off their alignment
    pitch: int = 0  # elements between the heads of k beyond their own
    sharp: bool = False  # a query weighs one key alone: e^(the distance of its scores) overflows
    save: bool = True  # what the backward needs
    backward: bool = True  # in 16 bits

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.queries}x{self.keys}x{self.heads[0]}:{self.heads[1]}x{self.head_dim}"]
        words += [self.dtype] + [f"window{self.window[0]}:{self.window[1]}"] * (self.window != (-1, -1))
        words += ["mask"] * self.mask + ["lengths"] * self.lengths + ["differential"] * self.differential
        words += ["misaligned"] * bool(self.misalign) + ["pitched"] * bool(self.pitch)
        words += ["sharp"] * self.sharp + ["forward"] * (self.save and not self.backward)
        return "-".join(words + ["inference"] * (not self.save))


def _retrieve(q: torch.Tensor, k: torch.Tensor, first: int, dtype: torch.dtype) -> None:
    """Keys of one length, and of each query the multiple of its own key: no other has a score as large. The keys of
    eight queries in turn lie in eight fragments and all places of one."""
    group, rows = q.shape[2] // k.shape[2], torch.arange(q.shape[1])
    k *= k.shape[3] ** 0.5 / k.norm(dim=-1, keepdim=True)
    k[:] = k.to(dtype).double()
    own = (first + rows % 8 * 8 + rows * 3 % 8) % k.shape[1]
    q[:] = (32 * k[:, own].repeat_interleave(group, 2)).to(dtype).double()


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    dtype = DTYPES[case.dtype]
    rng = np.random.default_rng([case.batch, case.queries, case.keys, case.head_dim])
    B, T, S, D, (H, Hk) = case.batch, case.queries, case.keys, case.head_dim, case.heads
    q, k, v = (inputs(rng, (B, n, h, D), dtype, m) for n, h, m in ((T, H, 0.1), (S, Hk, -0.1), (S, Hk, 0.4)))
    q2, k2 = (inputs(rng, (B, n, h, D), dtype, 0.2) for n, h in ((T, H), (S, Hk)))
    mask = torch.from_numpy(rng.random((B, S)) < 0.6) if case.mask else None
    # the last sample's queries see nothing: it has no key, or tiles of keys that are all masked
    if mask is not None and B > 1:
        mask[-1] = False
    lengths = torch.tensor([S + 1, S - 2, 0][-B:]) if case.lengths else None
    if case.sharp:
        _retrieve(q, k, 0, dtype)
        _retrieve(q2, k2, 25, dtype)

    def view(values: torch.Tensor, pitch: int = 0, misalign: int = 0) -> Heads:
        rows, heads = values.shape[1:3]
        wide = torch.full((B, rows, heads, D + pitch), float("nan"), dtype=dtype)
        wide[..., :D] = values
        buffer = Buffer.of(device, as_bytes(wide), misalign=misalign * dtype.itemsize)
        return Heads(buffer.address, rows * heads * (D + pitch), heads * (D + pitch), D + pitch)

    def output(rows: int = T, heads: int = H) -> tuple[Buffer, Heads]:
        size = B * rows * heads * D * dtype.itemsize
        buffer = Buffer(device, device.allocate(size, None, case.misalign * dtype.itemsize), size)
        return buffer, Heads(buffer.address, rows * heads * D, heads * D, D)

    softmaxes = 1 + case.differential
    y, y_view = output()
    y2, y2_view = output()
    lse = Buffer.empty(device, 4 * softmaxes * B * H * T)
    hidden = v.clone()  # what the mask hides is never read as a number
    if mask is not None:
        hidden[~mask] = float("nan")
    args = Args(
        softmaxes=softmaxes,
        q=view(q, misalign=case.misalign),
        k=view(k, case.pitch),
        v=view(hidden),
        y=y_view,
        batch=B,
        queries=T,
        keys=S,
        heads=H,
        kv_heads=Hk,
        head_dim=D,
        left=case.window[0] if case.window[0] >= 0 else 2**63 - 1,
        right=case.window[1] if case.window[1] >= 0 else 2**63 - 1,
        scale=D**-0.5,
        dtype=tuple(DTYPES).index(case.dtype),
    )
    if mask is not None:
        args.mask, args.mask_stride = Buffer.of(device, mask.numpy().tobytes()).address, S
    if lengths is not None:
        args.lengths = Buffer.of(device, lengths.numpy().tobytes()).address
    if case.differential:
        args.q2, args.k2 = view(q2), view(k2)
    if case.save:
        args.lse = lse.address
        if case.differential:
            args.y2 = y2_view
    findings = run_plan(device, planner, "attention", args)

    def reference(kind: torch.dtype) -> tuple[torch.Tensor, ...]:
        second = (q2.to(kind), k2.to(kind)) if case.differential else (None, None)
        arrays = (q.to(kind), k.to(kind), v.to(kind), *second)
        return op._reference(*arrays, mask, lengths, case.window, None)

    (exact_y, exact_lse, exact_y2), (same_y, _, same_y2) = reference(torch.float64), reference(dtype)
    # Scores are float32, whatever the dtype. Tensor cores truncate what they add, at each of D / 16 steps, and the
    # logarithm is of sums of ex2.approx, which is within 2^-22.
    same_lse = reference(torch.float32)[1]
    if case.dtype != "float32":
        same_lse = (exact_lse - exact_lse.abs() * 2**-18 - 2**-20).float()
    got = {"y": y.tensor(dtype, (B, T, H, D))}
    wrong = compare("y", got["y"], exact_y, same_y)
    if case.save:
        got["lse"] = lse.tensor(torch.float32, (softmaxes, B, H, T))
        blind = exact_lse.isinf()
        if not torch.equal(got["lse"].isinf(), blind):
            wrong.append("lse: infinite where a key is seen, or finite where none is")
        else:
            wrong += compare("lse", got["lse"][~blind], exact_lse[~blind], same_lse[~blind])
        if case.differential:
            got["y2"] = y2.tensor(dtype, (B, T, H, D))
            wrong += compare("y2", got["y2"], exact_y2, same_y2)
    if not case.save or not case.backward or case.dtype == "float32":
        return Outcome(findings, wrong, got)

    dy = inputs(rng, (B, T, H, D), dtype, 0.3)
    leaves = {"dq": q, "dk": k, "dv": v} | ({"dq2": q2, "dk2": k2} if case.differential else {})
    out = {name: output(*like.shape[1:3]) for name, like in leaves.items()}
    work = Buffer.empty(device, 8 * softmaxes * B * H * T)
    views = {name: there for name, (_, there) in out.items()}
    backward = BackwardArgs(forward=args, dy=view(dy), rows=work.address, **views)
    findings += run_plan(device, planner, "attention_backward", backward)

    def gradients(kind: torch.dtype) -> tuple[torch.Tensor, ...]:
        arrays = [t.to(kind).requires_grad_() for t in leaves.values()]
        y = op.reference(*arrays, *[None] * (5 - len(arrays)), mask, lengths, case.window)
        return torch.autograd.grad(y, arrays, dy.to(kind))

    for name, exact, same in zip(leaves, gradients(torch.float64), gradients(dtype), strict=True):
        got[name] = out[name][0].tensor(dtype, tuple(exact.shape))
        wrong += compare(name, got[name], exact, same, gradient=True)
    return Outcome(findings, wrong, got)


def _on_tensor_cores(dtype: str, two: bool, keys: int, *head_dims: int) -> list[Case]:
    """Of one kernel, three head dims. A window about more than a block of queries, whose ends fall on every column of a
    tile, over three tiles, so that both buffers are filled anew; a mask, where nothing is aligned; scores far apart.
    Gradients of two softmaxes come with the first, of one with the second."""
    windowed, off, far = head_dims
    window, half, of_heads = (2, keys // 2), keys // 2 + 5, (1 if two else 2, 1)
    return [
        Case(66, keys, windowed, dtype, 2, (1, 1), window, False, True, two, pitch=8, backward=two),
        Case(9, half, off, dtype, 2, of_heads, mask=True, differential=two, misalign=1, backward=not two),
        Case(16, 64, far, dtype, differential=two, sharp=True, backward=False),
    ]


# A block has 64 queries, a tile 64 keys (32 above head dim 64), a fragment 16 rows and 8 columns; a warp of the float32
# kernel 32 keys. Head dims differ: each ends elsewhere in the fragments.
CASES = [
    Case(1, 1, 1),
    Case(1, 1, 8),
    Case(2, 3, 65),
    Case(1, 1, 2, "float16"),
    Case(3, 2, 66, "float16"),
    Case(40, 20, 100, window=(-1, 0)),
    *_on_tensor_cores("bfloat16", False, 132, 64, 63, 40),
    *_on_tensor_cores("bfloat16", True, 132, 48, 58, 16),
    *_on_tensor_cores("bfloat16", False, 70, 128, 125, 104),
    *_on_tensor_cores("bfloat16", True, 70, 112, 124, 80),
    *_on_tensor_cores("float16", False, 132, 56, 60, 32),
    *_on_tensor_cores("float16", True, 132, 40, 61, 24),
    *_on_tensor_cores("float16", False, 70, 120, 126, 96),
    *_on_tensor_cores("float16", True, 70, 104, 121, 88),
    Case(6, 35, 128, "float32", mask=True),
    Case(5, 40, 33, "float32", lengths=True, batch=2, heads=(2, 1), window=(30, 3)),
    Case(4, 33, 125, "float32", differential=True),
    Case(9, 12, 7, "float32", differential=True, batch=2, heads=(4, 2), window=(2, 1), save=False),
    Case(16, 64, 72, "float32", differential=True, sharp=True),
]
