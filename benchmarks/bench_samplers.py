# SPDX-License-Identifier: Apache-2.0
"""What a sampler costs beside its network: whole runs over a network that takes no time, by the step.

    pytest benchmarks/bench_samplers.py --benchmark-json=samplers.json

The rival is the same sampler in eager PyTorch, written as k-diffusion and the papers write it: preconditioning,
guidance, rescale and step one after another. Both are checked against each other before anything is timed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from interleave import interleave, machine
from torch import Tensor

from prestissimo import ops
from prestissimo.sampling import SAMPLERS, Preconditioned, classifier_free, karras, latent_noise

STEPS, SD = 20, 0.5
SIZES = {"mini-32s": (1, 128, 345), "open-1.0": (1, 64, 1024), "sa3-medium-380s": (1, 256, 4096)}
GUIDANCE = {"plain": (1.0, 0.0), "guided": (4.0, 0.0), "rescaled": (4.0, 0.7)}

Denoise = Callable[[Tensor, float], Tensor]


class Eager:
    """Each sampler's step (D, x, σ, σ', i) in eager PyTorch."""

    def __init__(self) -> None:
        self.old: tuple[Tensor, float] | None = None

    def euler(self, D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        return x + (t - s) * ((x - D(x, s)) / s)

    ddim = euler

    def heun(self, D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        d = (x - D(x, s)) / s
        ahead = x + (t - s) * d
        return ahead if t == 0 else x + (t - s) * (d + (ahead - D(ahead, t)) / t) / 2

    def dpm2(self, D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        d = (x - D(x, s)) / s
        if t == 0:
            return x + (t - s) * d
        middle = math.sqrt(s * t)
        ahead = x + (middle - s) * d
        return x + (t - s) * ((ahead - D(ahead, middle)) / middle)

    def dpmpp_2s(self, D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        if t == 0:
            return D(x, s)
        h, middle = math.log(s / t), math.sqrt(s * t)
        u = (middle / s) * x - math.expm1(-h / 2) * D(x, s)
        return (t / s) * x - math.expm1(-h) * D(u, middle)

    def dpmpp_2m(self, D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        denoised = D(x, s)
        if t == 0:
            return denoised
        h, blend = math.log(s / t), denoised
        if i and self.old is not None:
            r = self.old[1] / h
            blend = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * self.old[0]
        self.old = denoised, h
        return (t / s) * x - math.expm1(-h) * blend

    def pingpong(self, D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        denoised = D(x, s)
        return denoised + t * latent_noise([3], *x.shape[1:], stream=i + 1) if t else denoised

    def ctm(self, D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        return (t / s) * x + (1 - t / s) * D(x, s)


def eager_denoise(F: Tensor, F_u: Tensor, scale: float, rescale: float) -> Denoise:
    def D(x: Tensor, s: float) -> Tensor:
        variance = s * s + SD * SD
        _ = x / math.sqrt(variance)  # the network's input
        skip, out = SD * SD / variance, s * SD / math.sqrt(variance)
        c = skip * x + out * F
        if scale == 1:
            return c
        u = skip * x + out * F_u
        y = u + scale * (c - u)
        if rescale:
            y = rescale * (y * (c.std(1, keepdim=True) / y.std(1, keepdim=True))) + (1 - rescale) * y
        return y

    return D


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler(benchmark: Any, name: str, size: str, guidance: str, threads: int) -> None:
    g = torch.Generator().manual_seed(0)
    noise, F, F_u = (torch.randn(SIZES[size], generator=g) for _ in range(3))
    both, sigmas, (scale, rescale) = torch.cat([F, F_u]), karras(STEPS), GUIDANCE[guidance]
    denoise = classifier_free(
        Preconditioned(lambda x, s: F, SD), Preconditioned(lambda x, s: both, SD), scale, rescale=rescale
    )
    options = {"seeds": [3]} if name == "pingpong" else {}
    pairs = list(itertools.pairwise(sigmas.tolist()))

    def eager() -> Tensor:
        step, D = getattr(Eager(), name), eager_denoise(F, F_u, scale, rescale)
        x = pairs[0][0] * noise
        for i, (s, t) in enumerate(pairs):
            x = step(D, x, s, t, i)
        return x

    def ours() -> Tensor:
        return SAMPLERS[name](denoise, noise, sigmas, **options)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), ops.strict_kernels():
            torch.testing.assert_close(ours(), eager(), atol=1e-4 * float(eager().abs().max()), rtol=0)
            times = interleave({"prestissimo": ours, "eager": eager}, rounds=12)
            benchmark.pedantic(ours, rounds=3, warmup_rounds=1)
    finally:
        torch.set_num_threads(before)
    step = {rival: t.fastest * 1e6 / STEPS for rival, t in times.items()}
    print(
        f"\n{name} {size} {guidance} {threads}t: {step['prestissimo']:.1f} us a step, eager {step['eager']:.1f}"
        f" ({step['eager'] / step['prestissimo']:.1f} x)"
    )
    benchmark.extra_info |= {
        "machine": machine(),
        "op": "sampler",
        "threads": threads,
        "microseconds_a_step": step,
        "gain": step["eager"] / step["prestissimo"],
    }
