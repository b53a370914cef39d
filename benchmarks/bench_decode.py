# SPDX-License-Identifier: Apache-2.0
"""Latents to sound, 32 s of stereo: each stage of the codec, the whole of it, and 48 rounds of Griffin-Lim.

Run alone on a quiet machine: `pytest benchmarks/bench_decode.py --benchmark-json=decode.json`. A row states
seconds of audio per second (x real time) and the multiply-adds counted twice (GFLOP), and where it is drawn into the
roofline the bytes of its arguments, weights and result; weights are random, because no stage's cost depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bench_ops import test_ceiling  # noqa: F401 - the roofline's lines, in this run too
from griffin_lim import griffin_lim, inverse_mel
from interleave import machine
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prestissimo.nn.codec import MelCodec, MelCodecConfig
from prestissimo.nn.packing import pack_linears
from prestissimo.nn.phase import inverse_stft, peak_phase, project_phase

SECONDS = 32.0
CONFIG = MelCodecConfig(texture=1.0)
THREADS = 2
GOAL_MS = 120.0  # of the whole decoder, on two threads of Zen 4


def random_codec(kernels: str) -> MelCodec:
    torch.manual_seed(0)
    model = MelCodec(CONFIG, kernels).requires_grad_(False).eval()
    model.components.copy_(torch.linalg.qr(torch.randn(CONFIG.patch_size, CONFIG.channels)).Q.T)
    model.mean.fill_(-3.0)
    model.scale.fill_(0.13)
    return model


@pytest.fixture(scope="module")
def codec() -> MelCodec:
    """As `load` prepares it."""
    return pack_linears(random_codec("auto"))


@pytest.fixture(scope="module")
def plain() -> MelCodec:
    return random_codec("reference")


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    frames = math.ceil(SECONDS * CONFIG.latent_rate)
    return 0.5 * torch.randn(1, CONFIG.channels, frames, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def transforms(count: int, latents: torch.Tensor) -> float:
    """GFLOP of `count` real transforms of every frame of both channels: 5/2 n log2 n each."""
    frames = 2 * latents.shape[2] * CONFIG.patch_frames
    return count * frames * 2.5 * CONFIG.mel.n_fft * math.log2(CONFIG.mel.n_fft) / 1e9


def bytes_of(*things: Any) -> int:
    """Of tensors, of tuples of them, and of the weights of modules."""
    total = 0
    for thing in things:
        if torch.is_tensor(thing):
            total += thing.numel() * thing.element_size()
        elif isinstance(thing, nn.Module):
            total += bytes_of(*thing.parameters(), *thing.buffers())
        else:
            total += bytes_of(*thing)
    return total


def measure(
    benchmark: Any,
    run: Callable[[], Any],
    fft_gflop: float = 0.0,
    rounds: int = 7,
    counted: Callable[[], Any] | None = None,
    reads: tuple[Any, ...] = (),
    dtype: str = "float32",
) -> None:
    """`counted`: the same work in eager PyTorch, whose products the counter knows."""
    with FlopCounterMode(display=False) as counter:
        (counted or run)()
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=1)
    gflop = counter.get_total_flops() / 1e9 + fft_gflop
    benchmark.extra_info.update(
        machine=machine(),
        threads=THREADS,
        dtype=dtype,
        gflop=round(gflop, 2),
        x_real_time=round(SECONDS / benchmark.stats.stats.min, 1),
    )
    if reads:
        benchmark.extra_info.update(flops=gflop * 1e9, bytes=bytes_of(*reads, run()))


@pytest.mark.benchmark(group="codec stage, 32 s")
def test_log_mel(benchmark: Any, codec: MelCodec, latents: torch.Tensor) -> None:
    measure(benchmark, lambda: codec.decode_log_mel(latents), reads=(latents, codec.components))


@pytest.mark.benchmark(group="codec stage, 32 s")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_magnitudes(
    benchmark: Any, codec: MelCodec, plain: MelCodec, latents: torch.Tensor, dtype: torch.dtype
) -> None:
    """bfloat16: eager, by autocast."""
    mel, model = codec.decode_log_mel(latents), codec if dtype == torch.float32 else plain

    def run() -> torch.Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model.magnitudes_of(mel)

    rival = dtype != torch.float32
    reads = () if rival else (mel, plain.magnet)
    measure(benchmark, run, counted=lambda: plain.magnitudes_of(mel), reads=reads, dtype=str(dtype)[6:])


by_reference = pytest.mark.parametrize("reference", [False, True], ids=["kernels", "reference"])


@by_reference
@pytest.mark.benchmark(group="codec stage, 32 s")
def test_peak_phase(benchmark: Any, codec: MelCodec, latents: torch.Tensor, reference: bool) -> None:
    rows = codec.decode_magnitudes(latents)[0]
    measure(benchmark, lambda: peak_phase(rows, CONFIG.mel.hop, codec.initial_state(1), reference))


@by_reference
@pytest.mark.benchmark(group="codec stage, 32 s")
def test_project_phase(benchmark: Any, codec: MelCodec, latents: torch.Tensor, reference: bool) -> None:
    rows, rounds = codec.decode_magnitudes(latents)[0], CONFIG.phase_rounds
    phase, _ = peak_phase(rows, CONFIG.mel.hop, codec.initial_state(1))
    run = lambda: project_phase(rows, phase, CONFIG.mel.hop, rounds, reference)  # noqa: E731
    measure(benchmark, run, transforms(2 * rounds, latents), reads=() if reference else (rows, phase))


@by_reference
@pytest.mark.benchmark(group="codec stage, 32 s")
def test_inverse_stft(benchmark: Any, codec: MelCodec, latents: torch.Tensor, reference: bool) -> None:
    rows = codec.decode_magnitudes(latents)[0]
    phase, _ = peak_phase(rows, CONFIG.mel.hop, codec.initial_state(1))
    run = lambda: inverse_stft(rows, phase, CONFIG.mel.hop, reference)  # noqa: E731
    measure(benchmark, run, transforms(1, latents), reads=() if reference else (rows, phase))


@by_reference
@pytest.mark.benchmark(group="decoder, 32 s")
def test_codec(
    benchmark: Any, codec: MelCodec, plain: MelCodec, latents: torch.Tensor, reference: bool
) -> None:
    rounds, model = 2 * CONFIG.phase_rounds + 1, plain if reference else codec
    run = lambda: model.decode_waveform(latents)  # noqa: E731
    reads = () if reference else (latents, plain)
    counted = lambda: plain.decode_waveform(latents)  # noqa: E731
    measure(benchmark, run, transforms(rounds, latents), counted=counted, reads=reads)
    if not reference:
        benchmark.extra_info["goal_ms"] = GOAL_MS


@pytest.mark.benchmark(group="decoder, 32 s")
def test_codec_in_tiles(benchmark: Any, codec: MelCodec, plain: MelCodec, latents: torch.Tensor) -> None:
    rounds = 2 * CONFIG.phase_rounds + 1
    run = lambda: codec.decode_tiled(latents, 64)  # noqa: E731
    # what tiles compute twice, where they meet, is no work of the task: counted as decoding at once
    measure(benchmark, run, transforms(rounds, latents), counted=lambda: plain.decode_waveform(latents))


@pytest.mark.benchmark(group="decoder, 32 s")
def test_griffin_lim_48(benchmark: Any, codec: MelCodec, latents: torch.Tensor) -> None:
    def run() -> torch.Tensor:
        return griffin_lim(inverse_mel(codec.decode_log_mel(latents), CONFIG.mel), CONFIG.mel, 48)

    measure(benchmark, run, transforms(97, latents), rounds=1)
