# SPDX-License-Identifier: Apache-2.0
"""The whole path of 32 s of stereo on two threads with random weights: what a distilled model would have to meet.

    pytest benchmarks/bench_generate.py --benchmark-json=generate.json && python benchmarks/report.py generate.json

Text encoder (its bundled weights), four calls of the DiT, decoding, int16. The goal is 300 ms on two Zen 4 cores, whose
bf16 products run at 440 GFLOP/s: at most 10 GFLOP per DiT call, 20 GFLOP for the decoder, 15 ms for the text. Widths,
depths and latent rates that were in the running stand side by side; the counts decide, and the kernels must follow.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench_decode import bytes_of, transforms
from bench_ops import test_ceiling  # noqa: F401 - the roofline's lines, in this run too
from interleave import machine
from torch.utils.flop_counter import FlopCounterMode

from prestissimo.models.config import bundled_models
from prestissimo.models.text import load_text_encoder
from prestissimo.nn import DiT, DiTConfig, MelCodec, MelCodecConfig

SECONDS = 32.0
CALLS = 4
PROMPT = "a calm solo piano piece in a minor key, slow and quiet, with a warm and intimate sound"
TRANSFORMERS = {
    "320x8 at 10.77 Hz": (DiTConfig(latent_channels=128), 345),
    "256x12 at 10.77 Hz": (DiTConfig(latent_channels=128, width=256, depth=12, heads=4, ff_inner=640), 345),
    "384x6 at 10.77 Hz": (DiTConfig(latent_channels=128, width=384, depth=6, heads=6, ff_inner=896), 345),
    "320x8 at 21.5 Hz": (DiTConfig(latent_channels=64), 690),
    "320x8 at 21.5 Hz, two a token": (DiTConfig(latent_channels=64, latents_per_token=2), 690),
}


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def test_text(benchmark: Any) -> None:
    folder = bundled_models()["mini"]
    encoder, plain = load_text_encoder(folder), load_text_encoder(folder, "reference")
    benchmark.pedantic(lambda: encoder.encode([PROMPT]), rounds=15, warmup_rounds=2)
    with FlopCounterMode(display=False) as counter:
        plain.encode([PROMPT])
    flops = counter.get_total_flops()
    # of the words' embeddings, the rows of the prompt alone: fewer than one in a thousand
    read = bytes_of(encoder) - bytes_of(encoder.words)
    benchmark.extra_info |= {"machine": machine(), "gflop": flops / 1e9, "goal_ms": 15.0}
    benchmark.extra_info |= {"threads": 2, "dtype": "float32", "flops": flops, "bytes": read}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer(benchmark: Any, name: str, dtype: torch.dtype) -> None:
    config, frames = TRANSFORMERS[name]
    dit = DiT(config).eval().to(dtype)
    context = dit.encode_text(torch.randn(1, 24, config.text_dim))
    x = torch.randn(1, config.latent_channels, frames)
    conditions = {"sigma": torch.tensor([1.0]), "seconds": torch.tensor([SECONDS])}

    def calls() -> None:
        for _ in range(CALLS):
            dit(x, conditions, context)

    benchmark.pedantic(calls, rounds=7, warmup_rounds=1)
    benchmark.extra_info |= {
        "machine": machine(),
        "parameters": sum(p.numel() for p in dit.parameters()),
        "calls": CALLS,
        "gflop_per_call": dit.flops(frames, 24) / 1e9,
        "goal_gflop": 10.0,
        "threads": 2,
        "dtype": str(dtype)[6:],
        "flops": CALLS * dit.flops(frames, 24),
        "bytes": CALLS * bytes_of(dit, x, x),
    }


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_decoder(benchmark: Any, rounds: int) -> None:
    """Log-mel, magnitudes, phase, waveform and int16; `rounds` of Griffin-Lim. bench_decode.py has the stages."""
    codec = MelCodec(MelCodecConfig(phase_rounds=rounds)).eval()
    codec.mean.fill_(-3.0)
    latents = 0.5 * torch.randn(
        1, codec.config.channels, codec.latent_frames(round(SECONDS * codec.config.sample_rate))
    )

    def decode() -> torch.Tensor:
        audio = codec.decode_waveform(latents)
        return (audio.clamp(-1, 1) * 32767).to(torch.int16)

    codec.kernels = "reference"  # the counter sees torch's own products only
    with FlopCounterMode(display=False) as counter:
        decode()
    codec.kernels = "auto"
    gflop = counter.get_total_flops() / 1e9 + transforms(2 * rounds + 1, latents)
    benchmark.pedantic(decode, rounds=5, warmup_rounds=1)
    benchmark.extra_info |= {"machine": machine(), "goal_gflop": 20.0, "gflop": gflop}
    benchmark.extra_info |= {"threads": 2, "dtype": "float32", "flops": gflop * 1e9}
    benchmark.extra_info |= {"bytes": bytes_of(codec, latents, decode())}
