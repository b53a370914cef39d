# SPDX-License-Identifier: Apache-2.0
"""The pipeline with random weights: diffusers' arguments, the same bits however items are grouped, errors."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

import prestissimo
from prestissimo import ops
from prestissimo.pipeline import Generation, load
from prestissimo.request import Request


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return load(tiny_model)


def frames(pipe, seconds: float) -> int:
    return math.ceil(round(seconds * pipe.sample_rate) / pipe.codec.config.hop)


def test_audio_is_float32_stereo_of_the_length_asked(pipe):
    for seconds in (0.001, 0.5, 7.5):
        sound = pipe("calm solo piano", seconds=seconds, seed=7)
        assert sound.shape == (2, round(seconds * pipe.sample_rate))
        assert sound.dtype == torch.float32
        assert torch.isfinite(sound).all()
    assert pipe("calm", seed=7, num_inference_steps=1).shape == (2, 12 * pipe.sample_rate)


def test_a_batch_has_the_bits_of_its_items_alone(pipe):
    prompts = ["calm solo piano", "fast techno drums with a longer text"]
    settings = {"seconds": 0.7, "guidance_scale": 2.0, "negative_prompt": "drums"}
    batch = pipe(prompts, seed=[7, 3], **settings)
    for prompt, seed, together in zip(prompts, (7, 3), batch, strict=True):
        assert torch.equal(pipe(prompt, seed=seed, **settings), together)
    takes = pipe(prompts[0], seed=7, num_waveforms_per_prompt=3, **settings)
    assert torch.equal(takes[0], batch[0])
    assert torch.equal(takes[2], pipe(prompts[0], seed=9, **settings))


def test_lengths_and_negative_prompts_of_each_prompt(pipe):
    long, short = pipe(["calm", "fast"], seconds=[0.5, 0.3], negative_prompt=["drums", None], seed=1)
    assert (long.shape[1], short.shape[1]) == (22050, 13230)
    assert torch.equal(short, pipe("fast", seconds=0.3, seed=2))
    assert torch.equal(long, pipe("calm", seconds=0.5, seed=1, negative_prompt="drums"))


def test_arguments_change_the_music(pipe):
    plain = pipe("calm", seconds=0.5, seed=7)
    for change in (
        {"prompt": "techno"},
        {"seed": 8},
        {"num_inference_steps": 5},
        {"guidance_scale": 1.0},
        {"negative_prompt": "drums"},
        {"sampler": "heun"},
    ):
        assert not torch.equal(plain, pipe(**{"prompt": "calm", "seconds": 0.5, "seed": 7, **change})), change
    assert torch.equal(plain, pipe("calm", seconds=0.5, seed=7))


def test_generators_work_as_in_diffusers(pipe):
    generator = torch.Generator().manual_seed(0)
    first, second = (pipe("calm", seconds=0.3, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, pipe("calm", seconds=0.3, generator=generator.manual_seed(0)))


def test_latents_in_and_out(pipe):
    T = frames(pipe, 0.5)
    noise = torch.randn(2, 8, T, generator=torch.Generator().manual_seed(0))
    one = pipe("calm", seconds=0.5, latents=noise[0])
    assert torch.equal(one, pipe("calm", seconds=0.5, latents=noise[:1]))
    assert torch.equal(one, pipe(["calm", "fast"], seconds=0.5, latents=noise)[0])
    latents = pipe("calm", seconds=0.5, latents=noise[0], output_type="latent")
    assert latents.shape == (8, T)
    assert torch.equal(pipe.codec.decode_waveform(latents[None], length=22050)[0], one)


def test_callbacks_see_and_change_every_step(pipe):
    seen = []

    def watch(pipeline, step, sigma, state):
        assert pipeline is pipe
        seen.append((step, float(sigma), state["latents"].shape))

    plain = pipe("calm", seconds=0.5, seed=7, num_inference_steps=4)
    assert torch.equal(
        plain, pipe("calm", seconds=0.5, seed=7, num_inference_steps=4, callback_on_step_end=watch)
    )
    assert [step for step, *_ in seen] == [0, 1, 2, 3]
    assert [sigma for _, sigma, _ in seen] == sorted((s for _, s, _ in seen), reverse=True)
    silent = pipe(
        "calm",
        seconds=0.5,
        seed=7,
        output_type="latent",
        callback_on_step_end=lambda pipeline, step, sigma, state: {"latents": state["latents"] * 0},
    )
    assert not silent.any()

    def cancel(pipeline, step, sigma, state):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pipe("calm", seconds=0.5, callback_on_step_end=cancel)


def test_initial_audio(pipe):
    t = torch.arange(pipe.sample_rate) / pipe.sample_rate
    tune = torch.stack([torch.sin(2 * torch.pi * f * t) for f in (440, 660)]) * 0.3
    coded = pipe.codec.encode(tune[None])[0]

    def distance(strength: float) -> float:
        made = pipe("calm", init_audio=tune.numpy(), init_strength=strength, seed=7, output_type="latent")
        return float((made - coded).square().mean())

    near, middle, far = (distance(s) for s in (0.01, 0.3, 1.0))
    assert near < 1e-3 * far
    assert near < middle < far
    assert pipe("calm", init_audio=tune, seed=7).shape == tune.shape
    assert pipe("calm", init_audio=tune, seed=7, seconds=1.5).shape == (2, 66150)
    assert pipe("calm", init_audio=tune, seed=7, seconds=0.5).shape == (2, 22050)


def test_schedules_end_at_zero_and_start_with_the_strength(pipe):
    sampling = pipe.config.sampling
    full, half = pipe.schedule(10), pipe.schedule(10, 0.5)
    assert (len(full), len(half)) == (11, 6)
    assert float(full[0]) == float(pipe.schedule(10, 0.9999)[0]) == sampling.sigma_max
    assert float(half[0]) == sampling.sigma_data
    assert float(half[-1]) == 0.0
    assert pipe.schedule(1, 1e-9).tolist() == [1.001 * sampling.sigma_min, 0.0]


def test_a_run_tells_what_it_did(pipe):
    made = pipe.run(Request("calm", 7, seconds=0.5))
    assert isinstance(made, Generation)
    assert (made.request.steps, made.request.sampler) == (3, "euler")
    assert made.timing.total == pytest.approx(made.timing.text + made.timing.denoising + made.timing.decoding)
    assert min(made.timing.denoising, made.timing.decoding) > 0
    assert torch.equal(made.audio, pipe("calm", seconds=0.5, seed=7))
    assert pipe.run(Request("calm", 7, seconds=0.5), decode=False).audio.shape == (2, 0)


def test_what_has_no_effect_is_said(pipe, caplog):
    with caplog.at_level(logging.WARNING, "prestissimo"):
        pipe("calm", seconds=0.3, guidance_scale=1.0, negative_prompt="drums")
    assert "negative_prompt has no effect" in caplog.text


def test_prompts_that_are_cut_are_said_to_be(pipe, caplog):
    with caplog.at_level(logging.WARNING, "prestissimo"):
        pipe("calm " * 16, seconds=0.3, seed=7)
        assert caplog.text == ""
        pipe("calm " * 17, seconds=0.3, seed=7)
    assert "longer than 16 tokens" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": ""}, ValueError, "prompt must not be empty"),
        ({"prompt": []}, ValueError, "prompt must hold at least one"),
        ({"prompt": ["calm", 3]}, TypeError, "prompt must be text"),
        ({"seconds": 61}, ValueError, "seconds must be at most 60, got 61"),
        ({"seconds": [1.0, 2.0]}, ValueError, r"seconds must be one, or one per prompt \(1\), got 2"),
        ({"sampler": "rk4"}, ValueError, "sampler must be one of euler, heun"),
        ({"output_type": "np"}, ValueError, 'output_type must be "audio" or "latent"'),
        ({"num_waveforms_per_prompt": 0}, ValueError, "num_waveforms_per_prompt must be a positive integer"),
        ({"latents": torch.zeros(8, 3)}, ValueError, r"latents must be a tensor \[8, 6\], got \[8, 3\]"),
        ({"latents": torch.full((8, 6), torch.nan)}, ValueError, "latents must be finite"),
        ({"latents": np.zeros((8, 6))}, ValueError, r"latents must be a tensor \[8, 6\], got ndarray"),
        ({"init_audio": torch.zeros(3, 100)}, ValueError, r"init_audio must be \[2, N\].*got \[3, 100\]"),
        ({"init_audio": torch.full((2, 9), torch.nan)}, ValueError, "init_audio must be finite"),
        ({"init_strength": 0.0}, ValueError, "init_strength must be above 0"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "seed and generator"),
    ],
)
def test_wrong_arguments_are_named(pipe, arguments, error, message):
    with pytest.raises(error, match=message):
        pipe(**{"prompt": "calm", "seconds": 0.5, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name_or_path": "maxi"}, "model must be a bundled one"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"device": 3.5}, "device must be cpu or cuda, got 3.5"),
        ({"dtype": "float8"}, "dtype must be one of float32, bfloat16 on cpu, got 'float8'"),
        ({"dtype": torch.float16}, "dtype must be one of float32, bfloat16 on cpu"),
        ({"threads": 0}, "threads must be a positive integer, got 0"),
    ],
)
def test_wrong_loading_is_named(tiny_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        load(**{"name_or_path": tiny_model, **arguments})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_says_so(tiny_model):
    with pytest.raises(ValueError, match="device 'cuda' is not available: prestissimo doctor tells why"):
        load(tiny_model, device="cuda")


def test_bfloat16_is_near_float32(tiny_model, pipe):
    half = load(tiny_model, dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    exact, rounded = (p("calm", seconds=0.5, seed=7, output_type="latent") for p in (pipe, half))
    assert float((rounded - exact).norm() / exact.norm()) < 0.05


def test_threads_are_set_while_it_runs_and_given_back(tiny_model):
    before = torch.get_num_threads()
    inside = []
    pipe = load(tiny_model, threads=1)
    pipe("calm", seconds=0.3, callback_on_step_end=lambda *_: inside.append(torch.get_num_threads()))
    assert set(inside) == {1}
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not ops.compiled(), reason="torch's own products differ by threads")
@pytest.mark.parametrize("seconds", [0.1, 0.5, 4.0])
def test_threads_do_not_change_a_bit(tiny_model, seconds):
    start = 0.1 * torch.randn(2, round(44100 * seconds), generator=torch.Generator().manual_seed(3))
    made = []
    for threads in (1, 2, 3):
        pipe = load(tiny_model, threads=threads)
        made.append([pipe("calm", seconds=seconds, seed=7, init_audio=init) for init in (None, start)])
    assert all(torch.equal(a, b) for other in made[1:] for a, b in zip(made[0], other, strict=True))


@pytest.mark.skipif(not ops.compiled(), reason="the compiled module is missing")
def test_strict_kernels_run_where_there_are_kernels(tiny_model, pipe):
    strict = load(tiny_model, strict_kernels=True)
    assert torch.equal(strict("calm", seconds=0.5, seed=7), pipe("calm", seconds=0.5, seed=7))


def test_strict_kernels_refuse_a_missing_module(tiny_model, monkeypatch):
    monkeypatch.setattr(ops, "compiled", lambda: False)
    with pytest.raises(ops.MissingKernelError, match="strict_kernels"):
        prestissimo.load(tiny_model, strict_kernels=True)


def test_weights_that_explode_are_found_out(tiny_model):
    pipe = load(tiny_model)
    with torch.no_grad():
        pipe.dit.out_offset.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        pipe("calm", seconds=0.3)


def test_music_that_leaves_the_range_is_found_out(tiny_model):
    pipe = load(tiny_model)
    with torch.no_grad():
        pipe.dit.out_offset.fill_(1e9)
    with pytest.raises(FloatingPointError, match="5 steps of euler have left the model's range"):
        pipe("calm", seconds=0.3, num_inference_steps=5, sampler="euler")
