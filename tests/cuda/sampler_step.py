# SPDX-License-Identifier: Apache-2.0
"""`sampler_step` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import torch

from .cases import Buffer, Outcome, compare, run_plan
from .devices import Device, HostDevice
from .latents import DTYPE_CODES, Latents, Samples
from .renoise import FrameNoise, noise_words

op = importlib.import_module("prestissimo.ops.sampler_step")
renoise = importlib.import_module("prestissimo.ops.renoise")


class StepWeights(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in ("guidance", "rescale", "skip", "out", "denoised", "x", "previous", "noise")
    )


_SIZES = (
    ("weights", StepWeights),
    ("batch", ctypes.c_int64),
    ("channels", ctypes.c_int64),
    ("frames", ctypes.c_int64),
    ("dtype", ctypes.c_uint8),
)


class Args(ctypes.Structure):
    _fields_ = (
        ("x", Samples),
        ("conditional", Samples),
        ("unconditional", Samples),
        ("previous", Samples),
        ("y", Samples),
        ("denoised", Samples),
        ("noise", FrameNoise),
        *_SIZES,
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("dy", Samples),
        ("ddenoised", Samples),
        ("x", Samples),
        ("conditional", Samples),
        ("unconditional", Samples),
        ("dx", Samples),
        ("dconditional", Samples),
        ("dunconditional", Samples),
        ("dprevious", Samples),
        *_SIZES,
    )


@dataclass(frozen=True)
class Case:
    """arrays: x, u (unconditional), p (previous), n (noise), d (denoised too); rescale needs u."""

    batch: int
    channels: int
    frames: int
    dtype: str = "float32"
    arrays: str = "x"
    rescale: float = 0.0
    skip: float = 0.2
    misalign: int = 0
    sliced: bool = False

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.channels}x{self.frames}", self.dtype, self.arrays or "none"]
        words += [f"rescale{self.rescale}"] * bool(self.rescale) + ["noskip"] * (self.skip == 0)
        return "-".join(words + ["misaligned"] * bool(self.misalign) + ["sliced"] * self.sliced)

    def weights(self) -> StepWeights:
        has = lambda name, value: value if name in self.arrays else 0.0  # noqa: E731
        skip = has("x", self.skip)
        return StepWeights(
            has("u", 2.5), self.rescale, skip, 0.42, 0.4, has("x", 0.7), has("p", -0.3), has("n", 0.6)
        )


class _Arrays:
    def __init__(self, case: Case, device: Device) -> None:
        self.case = case
        a = Latents(device, case.dtype, (case.batch, case.channels, case.frames), f"sampler_step {case}")
        self.latents, self.w = a, case.weights()
        self.x = a.values(0.3) if "x" in case.arrays else None
        self.c = a.values(-0.4)
        self.u = (self.c + a.values(0.2, 0.3)).to(a.dtype).double() if "u" in case.arrays else None
        self.p = a.values(0.5) if "p" in case.arrays else None
        self.dy, self.dd = a.values(0.2), a.values(-0.3) if "d" in case.arrays else None
        self.seeds, self.items = noise_words(a)

    def view(self, values: torch.Tensor | None) -> Samples:
        return self.latents.view(values, self.case.misalign, self.case.sliced)

    def sizes(self) -> tuple[StepWeights, int, int, int, int]:
        return self.w, *self.latents.shape, DTYPE_CODES[self.case.dtype]

    def reference(
        self, dtype: torch.dtype, leaves: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """y and D."""
        w, x = self.w, leaves.get("x")
        D = op.guided(x, leaves["c"], leaves.get("u"), w.skip, w.out, w.guidance + 1, w.rescale)
        y = w.denoised * D
        y = y + w.x * x if x is not None else y
        y = y + w.previous * leaves["p"] if "p" in leaves else y
        if w.noise:
            y = y + w.noise * renoise.frame_noise(D.shape, self.seeds, self.items, 9).to(dtype)
        return y, D

    def leaves(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        values = {"x": self.x, "c": self.c, "u": self.u, "p": self.p}
        return {name: v.to(dtype).requires_grad_() for name, v in values.items() if v is not None}


def run_forward(case: Case, device: Device, planner: HostDevice) -> Outcome:
    a = _Arrays(case, device)
    latents = a.latents
    outputs: dict[str, tuple[Buffer, Samples]] = {"y": latents.output()}
    if "d" in case.arrays:
        outputs["denoised"] = latents.output()
    noise = (
        FrameNoise(latents.vector(a.seeds), latents.vector(a.items), 9)
        if "n" in case.arrays
        else FrameNoise()
    )
    args = Args(
        *(a.view(v) for v in (a.x, a.c, a.u, a.p)),
        outputs["y"][1],
        outputs["denoised"][1] if "denoised" in outputs else Samples(),
        noise,
        *a.sizes(),
    )
    findings = run_plan(device, planner, "sampler_step", args)
    with torch.no_grad():
        exact, same = (
            dict(zip(("y", "denoised"), a.reference(d, a.leaves(d)), strict=True))
            for d in (torch.float64, latents.dtype)
        )
    got = {name: latents.result(buffer) for name, (buffer, _) in outputs.items()}
    wrong = [w for name, g in got.items() for w in compare(name, g, exact[name], same[name])]
    return Outcome(findings, wrong, got)


def run_backward(case: Case, device: Device, planner: HostDevice) -> Outcome:
    a = _Arrays(case, device)
    latents, saved = a.latents, case.rescale != 0
    outputs = {name: latents.output() for name in a.leaves(torch.float64)}
    absent = (None, Samples())
    args = BackwardArgs(
        a.view(a.dy),
        a.view(a.dd),
        a.view(a.x if saved and a.w.skip else None),
        a.view(a.c if saved else None),
        a.view(a.u if saved else None),
        *(outputs.get(name, absent)[1] for name in "xcup"),
        *a.sizes(),
    )
    findings = run_plan(device, planner, "sampler_step_backward", args)

    def gradients(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = a.leaves(dtype)
        y, D = a.reference(dtype, leaves)
        results, dy = [y], [a.dy.to(dtype)]
        if a.dd is not None:
            results, dy = [y, D], [*dy, a.dd.to(dtype)]
        return dict(zip(leaves, torch.autograd.grad(results, list(leaves.values()), dy), strict=True))

    exact, same = gradients(torch.float64), gradients(latents.dtype)
    got = {f"d{name}": latents.result(buffer) for name, (buffer, _) in outputs.items()}
    wrong = [w for n, g in got.items() for w in compare(n, g, exact[n[1:]], same[n[1:]], gradient=True)]
    return Outcome(findings, wrong, got)


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    return run_forward(case, device, planner) + run_backward(case, device, planner)


_FLAT = ("x", "xud", "xup", "", "xp", "u", "xupd", "ud", "p")


def _sweep() -> list[Case]:
    """Every kernel of the op; sizes about its tiles, each set of arrays with several of them."""
    cases = []
    for d, dtype in enumerate(DTYPE_CODES):
        lanes = 16 // (4 if dtype == "float32" else 2)
        for n, vectors in enumerate((1, 2, 255, 256, 257, 511, 513)):
            k = 2 * d + n
            arrays = _FLAT[k % len(_FLAT)]
            cases.append(
                Case(1 + k % 2, 1, vectors * lanes, dtype, arrays, skip=0.2 * (k % 3 > 0), sliced=k % 2 == 1)
            )
        for n, frames in enumerate((1, 3, 257, 513)):
            cases.append(Case(1 + n % 2, 1, frames, dtype, _FLAT[(4 * d + n) % len(_FLAT)]))
        cases.append(Case(2, 4, 16 * lanes, dtype, "xup", misalign=1))
        for n, (channels, frames) in enumerate([(4, 128), (8, 129), (3, 127), (1, 5), (6, 3), (7, 130)]):
            k = d + n
            cases.append(Case(1 + k % 2, channels, frames, dtype, ("n", "xun", "xnd", "xupnd", "xn")[k % 5]))
        for n, (channels, frames) in enumerate(
            [(32, 32), (33, 31), (5, 33), (64, 5), (3, 1), (37, 40), (8, 64)]
        ):
            k = d + n
            arrays = ("xu", "ud", "xupd", "xun", "xupnd", "up")[k % 6]
            share = (0.7, 1.0, 0.25)[k % 3]
            cases.append(
                Case(1 + k % 2, channels, frames, dtype, arrays, share, skip=0.2 * (k % 2), sliced=k % 2 == 1)
            )
    return cases


CASES = _sweep()
