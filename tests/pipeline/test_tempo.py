# SPDX-License-Identifier: Apache-2.0
"""The tempo that a prompt names or a caller gives, and how a model hears of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prestissimo.models.config import load_model
from prestissimo.pipeline import Pipeline, load
from prestissimo.request import Request
from prestissimo.tempo import TempoPrior, tempo_in


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


PRIOR = TempoPrior(
    odds=4, bpm=100, spread=0.2, slowest=60, fastest=180, words={"slow": (0.25, 0.8), "techno": (100.0, 1.2)}
)


def test_a_tempo_is_drawn_to_suit_the_words() -> None:
    assert PRIOR.expected("a song") == pytest.approx((0.8, 100.0))
    assert PRIOR.expected("Slow, slow song") == pytest.approx((0.5, 80.0))
    assert PRIOR.expected("slow techno at 90 bpm") == pytest.approx((100 / 101, 96.0))
    drawn = [PRIOR.draw("slow techno", seed) for seed in range(2000)]
    beaten = np.log([bpm for bpm in drawn if bpm])
    assert len(beaten) / len(drawn) == pytest.approx(100 / 101, abs=0.01)
    assert np.median(beaten) == pytest.approx(np.log(96), abs=0.02)
    assert beaten.std() == pytest.approx(0.2, rel=0.07)
    assert all(60 <= bpm <= 180 and bpm == round(bpm) for bpm in drawn if bpm)
    assert drawn == [PRIOR.draw("slow techno", seed) for seed in range(2000)]
    assert len({PRIOR.draw(f"song {i}", 0) for i in range(50)}) > 20, "one seed is not one tempo"


def test_factors_that_run_away_stay_within_the_range() -> None:
    wild = TempoPrior(
        100, 100, 0.2, 60, 180, {f"w{c}": (1000.0, 1000.0) for c in "abcdefghijklmnopqrstuvwxyz"}
    )
    tame = TempoPrior(100, 100, 0.2, 60, 180, {c: (0.001, 0.001) for c in "abcdefghijklmnopqrstuvwxyz"})
    assert wild.expected(" ".join(f"w{c}" for c in "abcdefghijklmnopqrstuvwxyz")) == (1.0, 180.0)
    share, median = tame.expected(" ".join("abcdefghijklmnopqrstuvwxyz"))
    assert 0 <= share < 1e-9
    assert median == 60.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("odds", 0.0), ("odds", float("nan")), ("bpm", -1.0), ("bpm", float("inf")), ("spread", -0.1),
        ("slowest", 20.0), ("fastest", 400.0), ("slowest", 200.0), ("words", {"loud": (0.0, 1.0)}),
        ("words", {"loud": (1.0, float("nan"))}),
    ],
)  # fmt: skip
def test_a_prior_names_what_is_out_of_range(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        replace(PRIOR, **{field: value})


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


def test_a_tempo_that_nobody_named_is_the_seeds(in_time: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_time, "tempo_prior", PRIOR)

    def resolved(
        prompt: str = "techno", seed: int = 3, from_audio: bool = False, **more: float
    ) -> float | None:
        return in_time.resolve(Request(prompt, seed, seconds=1.0, **more), from_audio=from_audio).bpm

    assert resolved() == PRIOR.draw("techno", 3) > 0
    assert resolved("techno at 128 bpm") == 128.0
    assert resolved(bpm=90.0) == 90.0
    assert resolved(bpm=0) == 0.0
    assert resolved(from_audio=True) == 0.0
    again = in_time.resolve(in_time.resolve(Request("techno", 3, seconds=1.0)))
    assert again.bpm == resolved()

    settings = {"seconds": 1.0, "seed": 3, "num_inference_steps": 2, "output_type": "latent"}
    drawn = in_time("techno", **settings)
    assert torch.equal(drawn, in_time("techno", bpm=PRIOR.draw("techno", 3), **settings))
    free = in_time("techno", bpm=0, **settings)
    assert not torch.allclose(drawn, free, atol=1e-3)
    sound = {**settings, "init_audio": torch.randn(2, 44100, generator=torch.Generator().manual_seed(1)) / 9}
    assert torch.equal(in_time("techno", **sound), in_time("techno", bpm=0, **sound))


def test_no_beat_is_no_wish_of_a_model_without_tempo(tiny_model) -> None:
    assert load(tiny_model)("piano", seconds=0.3, seed=1, bpm=0).shape == (2, 13230)


def test_the_bundled_model_knows_the_tempi_of_words() -> None:
    from prestissimo.models.config import bundled_models
    from prestissimo.models.tempo import read_tempo_prior

    prior = read_tempo_prior(bundled_models()["mini"])
    assert prior is not None
    assert prior.expected("fast music")[1] > 1.2 * prior.expected("slow music")[1]
    assert prior.expected("techno")[0] > 0.9 > prior.expected("classical music")[0]


def test_guidance_of_the_tempo_ends_above_its_level(
    in_time: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "seconds": 1.0,
        "seed": 3,
        "num_inference_steps": 3,
        "output_type": "latent",
        "guidance_scale": 5.0,
    }

    def made(below: float | None, bpm: float = 120) -> torch.Tensor:
        sampling = replace(in_time.config.sampling, tempo_below=below)
        monkeypatch.setattr(in_time, "config", replace(in_time.config, sampling=sampling))
        return in_time("techno", bpm=bpm, **settings)

    everywhere = made(None)
    assert torch.equal(made(1e6), everywhere)
    assert not torch.allclose(made(0.0), everywhere, atol=1e-3)
    between = made(1.5)
    assert not torch.allclose(between, everywhere, atol=1e-4)
    assert not torch.allclose(between, made(0.0), atol=1e-4)
    assert torch.equal(made(0.0, bpm=0), made(None, bpm=0))
    with pytest.raises(ValueError, match="tempo_below"):
        replace(in_time.config.sampling, tempo_below=-1.0)
