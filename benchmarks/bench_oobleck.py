# SPDX-License-Identifier: Apache-2.0
"""The Oobleck decoder of Stable Audio Open, 64 latents (2.97 s): ours packed, eager PyTorch and OpenVINO in bf16.

    pytest benchmarks/bench_oobleck.py -s --benchmark-json=oobleck.json

A row's `of_ceiling` is our GFLOP/s over those of oneDNN's prepacked product (M = K = N = 2048) of the same dtype in the
same run, decoded tile by tile, which is the whole bit for bit; `gain` the better of eager's and OpenVINO's bfloat16
over our time, `snr` the audio's signal-to-noise ratio in dB against float64.
Weights are random: no stage's cost depends on them, the noise that products add does, a little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ceilings import DTYPES, onednn_product
from interleave import interleave, machine
from peers import openvino
from torch import Tensor

from prestissimo import ops
from prestissimo.nn.oobleck import Layer, OobleckConfig, OobleckDecoder

LATENTS, TILE = 64, 16
CONFIG = OobleckConfig()


def random_decoder() -> OobleckDecoder:
    torch.manual_seed(0)
    decoder = OobleckDecoder(CONFIG).requires_grad_(False)
    for layers in decoder.layers():
        for layer in layers:
            for name, p in layer.named_parameters():
                if p.ndim == 1:
                    torch.nn.init.normal_(p, std=0.05 if name == "bias" else 0.3)
        if len(layers) == 2:  # a residual unit adds about half of what it is added to, as trained ones do
            layers[1].weight.mul_(0.5)  # type: ignore[union-attr]
    return decoder


def plain(layer: Layer, x: Tensor) -> Tensor:
    """A layer in eager PyTorch, all of x at once."""
    if layer.alpha is not None and layer.beta is not None:
        alpha, beta = layer.alpha.exp()[:, None], layer.beta.exp()[:, None]
        x = x + (beta + 1e-9).reciprocal() * (alpha * x).sin().pow(2)
    if layer.stride:
        return F.conv_transpose1d(x, layer.weight, layer.bias, layer.stride, layer.stride // 2)  # type: ignore[arg-type]
    return F.conv1d(x, layer.weight, layer.bias, padding=layer.context, dilation=layer.dilation)  # type: ignore[arg-type]


def eager(decoder: OobleckDecoder, z: Tensor) -> Tensor:
    for first, *second in decoder.layers():
        h = plain(first, z)
        z = z + plain(second[0], h) if second else h
    return z


def gflop(decoder: OobleckDecoder, frames: int) -> float:
    total, steps = 0, frames
    for layers in decoder.layers():
        for layer in layers:
            assert layer.weight is not None
            total += 2 * layer.weight.numel() * steps
            steps *= layer.stride or 1
    return total / 1e9


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(1, CONFIG.latent_channels, LATENTS, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exact(latents: Tensor) -> Tensor:
    with torch.inference_mode():
        return eager(random_decoder().double(), latents[..., :8].double())


@pytest.mark.parametrize("threads", [2, 1], ids=lambda n: f"{n}t")
@pytest.mark.parametrize("products", ["bfloat16", "int8"])
def test_oobleck(benchmark: Any, products: str, threads: int, latents: Tensor, exact: Tensor) -> None:
    dense = random_decoder()
    work = gflop(dense, LATENTS)
    ours, half = random_decoder().pack(products), dense.bfloat16()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), ops.strict_kernels():
            short = latents[..., :8]
            noise = {"ours": ours.decode(short) - exact, "eager": eager(half, short.bfloat16()) - exact}
            snr = {k: float(10 * (exact.square().sum() / n.square().sum()).log10()) for k, n in noise.items()}
            assert torch.equal(ours.decode(short, 3), ours.decode(short, 8)), "tiles are not the whole"
            assert snr["ours"] > (25 if products == "int8" else snr["eager"] - 1)
            rivals: dict[str, Callable[[], Any]] = {
                "prestissimo": lambda: ours.decode(latents, TILE),
                "eager": lambda: eager(half, latents.bfloat16()),
                "ceiling": onednn_product(2048, 2048, 2048, DTYPES[products]),
            }
            wide = random_decoder()
            exported = openvino(lambda z: eager(wide, z), (latents,), threads, "bfloat16")
            if exported is not None:
                audio = rivals["eager"]().float()
                assert float((torch.from_numpy(exported()) - audio).norm() / audio.norm()) < 0.1
                rivals["openvino"] = exported
            times = interleave(rivals, rounds=3)
            benchmark.pedantic(lambda: ours.decode(latents, TILE), rounds=1)
    finally:
        torch.set_num_threads(before)
    seconds = {k: t.fastest for k, t in times.items()}
    ceiling = 2 * 2048**3 / seconds["ceiling"] / 1e9
    info = {
        "machine": machine(),
        "op": "oobleck",
        "dtype": products,
        "threads": threads,
        "gflop": work,
        "seconds": seconds,
        "gflop_per_s": work / seconds["prestissimo"],
        "ceiling_gflop_per_s": ceiling,
        "of_ceiling": work / seconds["prestissimo"] / ceiling,
        "gain": min(seconds[k] for k in ("eager", "openvino") if k in seconds) / seconds["prestissimo"],
        "snr": snr,
    }
    benchmark.extra_info |= info
    print({k: v for k, v in info.items() if k != "machine"})
