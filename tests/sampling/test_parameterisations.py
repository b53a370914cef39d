# SPDX-License-Identifier: Apache-2.0
"""What a network predicts, by name: exact predictions give back the clean latent, whole and in parts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import prestissimo
from prestissimo.models.config import SamplingConfig
from prestissimo.sampling import PARAMETERISATIONS, estimate

SD = 0.7


def target(name: str, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
    if name == "flow":
        return noise - x0
    angle = (sigma**2 + SD**2) ** -0.5
    v = angle * (SD * noise - sigma / SD * x0)
    return v if name == "v" else -v


@pytest.mark.parametrize("sigma", [0.02, 0.7, 30.0])
@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_exact_predictions_give_back_the_clean_latent(name: str, sigma: float) -> None:
    rng = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 2, 3, 5, dtype=torch.float64, generator=rng)
    seen = []

    def network(scaled: Tensor, level: Tensor) -> Tensor:
        seen.append(scaled)
        assert level.tolist() == [sigma, sigma]
        return target(name, x0, noise, sigma)

    x = x0 + sigma * noise
    denoise = PARAMETERISATIONS[name](network, SD)
    torch.testing.assert_close(denoise(x, torch.tensor([sigma] * 2, dtype=torch.float64)), x0)
    parts = estimate(denoise, x, sigma)
    torch.testing.assert_close(parts.out * parts.prediction + parts.skip * x, x0)
    wanted = x / (1 + sigma) if name == "flow" else x * (sigma**2 + SD**2) ** -0.5
    for scaled in seen:
        torch.testing.assert_close(scaled, wanted)


def test_bfloat16_stays_bfloat16() -> None:
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    for make in PARAMETERISATIONS.values():
        assert make(lambda x, s: x, SD)(x, torch.ones(2)).dtype == torch.bfloat16


def test_a_model_says_it_in_its_configuration(tiny_model: Path, tmp_path: Path) -> None:
    sounds = []
    for name in PARAMETERISATIONS:
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        config = json.loads((folder / "config.json").read_text())
        config["sampling"]["parameterisation"] = name
        (folder / "config.json").write_text(json.dumps(config))
        pipe = prestissimo.load(folder)
        assert pipe.config.sampling.parameterisation == name
        sounds.append(pipe("calm", seconds=0.3, seed=7, output_type="latent"))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(sounds))


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="parameterisation must be one of edm, v, flow, got 'x0'"):
        dataclasses.replace(SamplingConfig(), parameterisation="x0")
