# SPDX-License-Identifier: Apache-2.0
"""The tempo that a prompt names or a caller gives, and how a model hears of it."""

from __future__ import annotations

import pytest
import torch

from prestissimo.models.config import load_model
from prestissimo.pipeline import Pipeline, load
from prestissimo.request import Request, tempo_in


@pytest.mark.parametrize(
    ("prompt", "bpm"),
    [
        ("techno at 128 bpm", 128.0),
        ("techno, 128BPM", 128.0),
        ("a 92.5 bpm groove", 92.5),
        ("an acoustic folk song with a tempo of 110 BPM", 110.0),
        ("electronic dance music, 170 beats per minute", 170.0),
        ("70 beats a minute, calm", 70.0),
        ("a 120-bpm march", 120.0),
        ("music of the 1980s", None),
        ("1280 bpm", None),
        ("9999 bpm", None),
        ("5 bpm", None),
        ("20 bpm", None),
        ("from 20 bpm to 120 bpm", 120.0),
        ("128 bpms of joy", None),
        ("piano", None),
    ],
)
def test_tempo_in_a_prompt(prompt: str, bpm: float | None) -> None:
    assert tempo_in(prompt) == bpm


@pytest.mark.parametrize("bpm", [29.9, 301, float("nan"), float("inf"), -120])
def test_a_tempo_that_no_music_has(bpm: float) -> None:
    with pytest.raises(ValueError, match="bpm must be"):
        Request("piano", 0, bpm=bpm)


@pytest.fixture(scope="module")
def in_time(tiny_model) -> Pipeline:
    """The tiny model with tempo and beats, as a training run starts it; then with weights that make them matter."""
    config, text_encoder, plain, codec = load_model(tiny_model)
    dit = plain.with_conditions("tempo", "beats")
    for name in ("tempo", "beats"):
        torch.nn.init.normal_(
            dit.conditions[name].linear.weight, std=0.5, generator=torch.Generator().manual_seed(1)
        )
    return Pipeline(config, text_encoder, dit.requires_grad_(False), codec)


def test_a_model_without_tempo_says_so(tiny_model) -> None:
    with pytest.raises(ValueError, match=r"bpm: the model .* takes no tempo"):
        load(tiny_model)("piano", seconds=0.3, seed=1, bpm=120)


def test_the_tempo_changes_the_music(in_time: Pipeline) -> None:
    settings = {"seconds": 1.0, "seed": 7, "num_inference_steps": 2, "output_type": "latent"}
    free = in_time("piano", **settings)
    slow, fast = (in_time("piano", bpm=bpm, **settings) for bpm in (60, 120))
    assert torch.isfinite(slow).all()
    assert not torch.allclose(free, slow, atol=1e-3)
    assert not torch.allclose(slow, fast, atol=1e-3)
    pair = in_time(["piano", "piano"], bpm=[60, None], **{**settings, "seed": [7, 7]})
    assert torch.equal(pair[0], slow)
    assert torch.equal(pair[1], free)


def test_what_the_caller_says_wins_over_the_prompt(in_time: Pipeline) -> None:
    def said(prompt: str, bpm: float | None = None) -> dict[str, torch.Tensor]:
        return in_time._conditions(in_time.resolve(Request(prompt, 0, seconds=1.0, bpm=bpm)))

    assert said("techno at 128 bpm")["tempo"].tolist() == [128.0]
    assert said("techno at 128 bpm", 90.0)["tempo"].tolist() == [90.0]
    assert said("techno")["tempo"].tolist() == [0.0]
    assert said("techno")["beats"].isnan().all()
    beats = said("techno", 120.0)["beats"]
    assert beats.shape == (1, in_time.codec.latent_frames(in_time.sample_rate))
    assert beats[0, 0] == 0
    assert float(beats[0, 1]) == pytest.approx(2 * in_time.codec.config.hop / in_time.sample_rate)
