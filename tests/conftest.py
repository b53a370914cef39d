# SPDX-License-Identifier: Apache-2.0
"""The fixtures of more than one module: the instruction sets, and a model folder of random weights, small enough to
load in a blink, for everything above the networks."""

from __future__ import annotations

import gc
import os
import re

# Test processes side by side (pytest -n) share the cores: a thread that spins while it waits holds up the others.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest


def pytest_collection_finish() -> None:
    """Twenty thousand collected tests live as long as the process: no collection of garbage need walk them again.
    With it a test that collects eight times (test_memory_does_not_grow) takes 0.6 s in place of 5."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)  # known to pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In several processes (pytest -n): a test's cases of one op go to one process, and what ran an op's PTX and what
    asks for its coverage too."""
    from xdist.scheduler import LoadScopeScheduling

    class ByOp(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            lanes = re.search(r"::test_(?:ptx|the_cases_reach_the_ptx)\[(\w+)-(?:.*-)?(\d+)\]$", nodeid)
            return f"{lanes[1]}-{lanes[2]}" if lanes else nodeid.partition("-")[0]

    return ByOp(config, log)


@pytest.fixture(params=("scalar", "avx2", "avx512", "avx512_bf16"))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once for every instruction set that this processor has."""
    from prestissimo import _core

    if request.param not in _core.supported_isas():
        pytest.skip(f"this processor has no {request.param}")
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model "tiny": 8 latent channels at 10.77 Hz, 44.1 kHz, three Euler steps, at most 60 s."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    from prestissimo.models.checkpoint import save_checkpoint
    from prestissimo.models.config import SamplingConfig, assemble_model
    from prestissimo.nn import DiT, DiTConfig, MelCodec, MelCodecConfig, TextEncoder, TextEncoderConfig
    from prestissimo.nn.magnitudes import MagNetConfig

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    words = ["[UNK]", "calm", "fast", "solo", "piano", "techno", "drums"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))

    generator = torch.Generator().manual_seed(0)
    text = TextEncoder(
        TextEncoderConfig(vocabulary=len(words), width=16, depth=1, heads=2, ff_inner=32, max_tokens=16),
        tokenizer,
    )
    dit = DiT(DiTConfig(latent_channels=8, width=32, depth=2, heads=2, ff_inner=64, text_dim=16, features=16))
    codec_config = MelCodecConfig(channels=8, magnet=MagNetConfig(width=16, blocks=1))
    codec = MelCodec(replace(codec_config, phase_rounds=1))
    with torch.no_grad():
        for module in (text, dit, codec.magnet):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        text.words.int8.random_(-127, 128, generator=generator)
        text.words.scale.fill_(0.01)
        codec.mean.fill_(-5.0)
        basis = torch.randn(codec.components.shape[::-1], generator=generator)
        codec.components.copy_(torch.linalg.qr(basis)[0].T)
    save_checkpoint(folder / "text.safetensors", text, asdict(text.config))
    save_checkpoint(folder / "dit.safetensors", dit, asdict(dit.config))
    save_checkpoint(folder / "codec.safetensors", codec, asdict(codec.config))
    assemble_model(folder, "tiny", SamplingConfig(sampler="euler", steps=3, max_seconds=60.0))
    return folder
