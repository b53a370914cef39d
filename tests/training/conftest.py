# SPDX-License-Identifier: Apache-2.0
"""Latents of a few short made-up tracks, their captions, and a transformer small enough to train in a second."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from prestissimo.data.beats import Beats
from prestissimo.models.text import load_text_encoder
from prestissimo.nn import DiTConfig, TextEncoder
from prestissimo.training.dit import DiTTraining
from prestissimo.training.latents import Lengths
from prestissimo.training.loop import LoopConfig

CHANNELS = 8
TAGS = {"p/calm-0": ("calm",), "p/calm-1": ("calm",), "p/calm-2": ("calm",), "p/fast": ("fast",)}


class FakeCaptions:
    """One tag a track; a text that depends on the random state, as real captions do."""

    def __contains__(self, track_id: object) -> bool:
        return track_id in TAGS or track_id == "p/held-out"

    def text(self, track_id: str, start: float, seconds: float, rng: np.random.Generator) -> str:
        return f"{TAGS.get(track_id, ('calm',))[0]} {rng.choice(['piano', 'techno', 'drums'])}"

    def tags(self, track_id: str, start: float, seconds: float) -> Sequence[str]:
        return TAGS.get(track_id, ("calm",))

    def beats(self, track_id: str, start: float, seconds: float) -> Beats:
        """The fast track is in time; of the calm ones only the tempo is known."""
        return Beats(120.0, (-2 * start) % 1.0) if track_id == "p/fast" else Beats(60.0, float("nan"))


def write_latents(folder: Path, frames: int = 200) -> None:
    """What `training.pca.encode_store` leaves: slow sines, one pitch a track, and noise."""
    rng = np.random.default_rng(0)
    entries, rows, offset = [], [], 0
    for i, name in enumerate([*TAGS, "p/held-out", "p/no-captions"]):
        phase = np.arange(frames)[:, None] * 0.1 * (i + 1) + np.arange(CHANNELS)
        rows.append(0.6 * np.sin(phase) + 0.2 * rng.standard_normal((frames, CHANNELS)))
        split = "heldout" if name == "p/held-out" else "train"
        entries.append({"id": name, "split": split, "offset": offset, "frames": frames})
        offset += frames
    np.concatenate(rows).astype("<f2").tofile(folder / "latents.f16")
    index = {"format": 1, "channels": CHANNELS, "hop": 4096, "sample_rate": 44100, "latent_std": 0.5}
    index |= {"scale": [1.0] * CHANNELS, "tracks": entries}
    (folder / "latents_index.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    write_latents(folder)
    return folder


@pytest.fixture(scope="session")
def captions() -> FakeCaptions:
    return FakeCaptions()


@pytest.fixture(scope="session")
def text_encoder(tiny_model: Path) -> TextEncoder:
    return load_text_encoder(tiny_model)


@pytest.fixture(scope="session")
def config() -> DiTTraining:
    model = DiTConfig(
        latent_channels=CHANNELS, width=32, depth=2, heads=2, ff_inner=64, text_dim=16, features=16
    )
    loop = LoopConfig(steps=12, learning_rate=3e-3, warmup=4, ema=0.9, validate_every=6, log_every=1)
    return DiTTraining(model, loop, Lengths((16, 32), (0.5, 0.5), tokens=64))


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
