# SPDX-License-Identifier: Apache-2.0
"""A training checkpoint becomes a model folder that generates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import prestissimo
from prestissimo.models.checkpoint import load_checkpoint
from prestissimo.models.config import SamplingConfig, read_model_config
from prestissimo.nn import TextEncoder
from prestissimo.training.dit import DiTTraining, train_dit
from prestissimo.training.export import export_dit
from prestissimo.training.latents import Captions


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    config: DiTTraining,
    latents: Path,
    captions: Captions,
    text_encoder: TextEncoder,
) -> Path:
    folder = tmp_path_factory.mktemp("run")
    quick = replace(config, loop=replace(config.loop, steps=3), sigma_data=0.7)
    train_dit(quick, latents, captions, text_encoder, folder)
    return folder


def test_exported_folder_generates(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    sampling = SamplingConfig(sampler="euler", steps=2)
    written = export_dit(run / "state.safetensors", tmp_path / "mine", base=tiny_model, sampling=sampling)
    assert (written.name, written.sampling.steps, written.sampling.sigma_data) == ("mine", 2, 0.7)
    pipe = prestissimo.load(str(tmp_path / "mine"))
    assert pipe("calm piano", seconds=1, seed=1).shape == (2, 44100)
    # again into the same folder: its way of sampling stays; a new one has that of the base
    assert export_dit(run, tmp_path / "mine").sampling == written.sampling
    base = read_model_config(tiny_model).sampling
    assert export_dit(run, tmp_path / "other", base=tiny_model).sampling == replace(base, sigma_data=0.7)


def test_exported_weights_are_the_average_in_int8(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    export_dit(run, tmp_path / "mine", base=tiny_model)
    path = tmp_path / "mine" / "dit.safetensors"
    stored = load_checkpoint(path).tensors
    with safe_open(run / "state.safetensors", "pt") as file, safe_open(path, "pt") as exported:
        assert any(name.endswith(".int8") for name in exported.keys())  # noqa: SIM118
        for name, tensor in stored.items():
            average = file.get_tensor(f"ema.{name}")
            step = average.abs().amax(tuple(range(1, average.ndim)), keepdim=True) / 127
            assert ((tensor - average).abs() <= 0.5001 * step).all(), name
            assert not torch.equal(average, file.get_tensor(f"model.{name}")) or not average.any()
    export_dit(run, tmp_path / "exact", base=tiny_model, int8=False)
    exact = load_checkpoint(tmp_path / "exact" / "dit.safetensors").tensors
    with safe_open(run / "state.safetensors", "pt") as file:
        assert all(torch.equal(t, file.get_tensor(f"ema.{k}")) for k, t in exact.items())


def test_what_cannot_be_exported_says_so(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such training checkpoint"):
        export_dit(tmp_path / "nowhere", tmp_path / "mine")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        export_dit(tiny_model / "config.json", tmp_path / "mine")
    with pytest.raises(ValueError, match="training checkpoint of format 1"):
        export_dit(tiny_model / "dit.safetensors", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"text\.safetensors"):
        export_dit(run, tmp_path / "mine", base=tmp_path / "empty")
    assert not (tmp_path / "mine" / "config.json").exists()
    export_dit(run, tmp_path / "whole", base=tiny_model)
    assert read_model_config(tmp_path / "whole").name == "whole"
