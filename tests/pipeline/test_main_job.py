# SPDX-License-Identifier: Apache-2.0
"""The main job with the weights that ship: text in, 44.1 kHz stereo music out, through our kernels only."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from prestissimo import audio, ops
from prestissimo.models.config import bundled_models

pytestmark = pytest.mark.skipif(
    "mini" not in bundled_models(), reason="this checkout has no weights of 'mini'"
)

PROMPT = "calm solo piano in a minor key"


@pytest.mark.skipif(not ops.compiled(), reason="the compiled module is missing")
def test_the_main_job(tmp_path):
    line = [sys.executable, "-m", "prestissimo", "generate", PROMPT, "--seconds", "12", "--seed", "7"]
    done = subprocess.run(
        [*line, "-o", "out.wav", "--strict-kernels", "--json"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["model"] == "mini"
    assert report["peak_memory_mb"] < 1500
    sound = audio.read(tmp_path / "out.wav", 44100)
    assert sound.shape == (2, 12 * 44100)
    assert audio.read_tags(tmp_path / "out.wav")["comment"]["seed"] == 7
    assert -45 < audio.measure_loudness(sound, 44100) < -5
    # music moves: no second is silent, none is a copy of the first, and the sides differ
    seconds = sound.reshape(2, 12, 44100)
    assert np.sqrt((seconds**2).mean(axis=(0, 2))).min() > 1e-4
    assert np.abs(np.corrcoef(seconds[0])[0, 1:]).max() < 0.99
    assert np.abs(sound[0] - sound[1]).max() > 1e-3


def test_prompts_and_seeds_make_different_music():
    import torch

    import prestissimo

    pipe = prestissimo.load("mini")
    settings = {"seconds": 3, "num_inference_steps": 4, "output_type": "latent"}
    piano, again, other, techno = (
        pipe(prompt, seed=seed, **settings)
        for prompt, seed in ((PROMPT, 7), (PROMPT, 7), (PROMPT, 8), ("fast techno with drums", 7))
    )
    assert torch.equal(piano, again)
    assert float((piano - other).norm() / piano.norm()) > 0.1
    assert float((piano - techno).norm() / piano.norm()) > 0.1
