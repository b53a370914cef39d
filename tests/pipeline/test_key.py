# SPDX-License-Identifier: Apache-2.0
"""The key that a prompt names or a caller gives, and how a model hears of it."""

from __future__ import annotations

import pytest
import torch

from prestissimo.keys import key_in, key_name, key_number
from prestissimo.models.config import load_model
from prestissimo.pipeline import Pipeline
from prestissimo.request import Request


@pytest.mark.parametrize(
    ("prompt", "key"),
    [
        ("a waltz in A minor", "A minor"),
        ("A minor waltz", None),
        ("Piano. A minor key, slow", "minor"),
        ("a fugue in e flat minor for organ", "E flat minor"),
        ("Bb major bebop", "B flat major"),
        ("F# minor techno", "F sharp minor"),
        ("ballad, C♯ minor", "C sharp minor"),
        ("a G-minor fugue", "G minor"),
        ("D Major brass", "D major"),
        ("in E Minor, then in G major", "E minor"),
        ("Cb major harp", "B major"),
        ("a tune in a minor key", "minor"),
        ("strings composed in major", "major"),
        ("minor-key ambient", "minor"),
        ("major chords on a guitar", "major"),
        ("a major hit with minor flaws", None),
        ("b minor sonata", None),
        ("DNAb major", None),
        ("piano", None),
    ],
)
def test_key_in_a_prompt(prompt: str, key: str | None) -> None:
    assert key_in(prompt) == key


def test_every_key_has_one_name() -> None:
    names = [key_name(k) for k in range(26)]
    assert len(set(names)) == 26
    assert [key_number(name) for name in names] == list(range(26))
    assert [key_in(f"music in {name}") for name in names] == names


@pytest.mark.parametrize("key", ["", "A", "H minor", "A minor 7", "minor key", "A  dorian", "major minor"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match="key must be such as"):
        Request("piano", 0, key=key)
    with pytest.raises(TypeError, match="key must be text"):
        Request("piano", 0, key=3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def in_key(tiny_model) -> Pipeline:
    """The tiny model with a key, as a training run starts it; then with weights that make it matter."""
    config, text_encoder, plain, codec = load_model(tiny_model)
    dit = plain.with_conditions("key")
    torch.nn.init.normal_(
        dit.conditions["key"].linear.weight, std=0.5, generator=torch.Generator().manual_seed(1)
    )
    return Pipeline(config, text_encoder, dit.requires_grad_(False), codec)


def test_the_key_changes_the_music(in_key: Pipeline) -> None:
    settings = {"seconds": 0.5, "seed": 7, "num_inference_steps": 2, "output_type": "latent"}
    made = {key: in_key("piano", key=key, **settings) for key in (None, "A minor", "A major", "minor")}
    for a in made:
        assert all(a == b or not torch.allclose(made[a], made[b], atol=1e-3) for b in made)
    assert torch.equal(made["A minor"], in_key("piano", key="a minor", **settings))


def test_what_the_caller_says_wins_over_the_prompt(in_key: Pipeline) -> None:
    def said(prompt: str, key: str | None = None) -> float:
        return float(in_key._conditions(in_key.resolve(Request(prompt, 0, seconds=1.0, key=key)))["key"])

    assert said("a waltz in A minor") == 21
    assert said("a waltz in A minor", "D major") == 2
    assert said("a waltz in minor") == 25
    assert said("a waltz") == -1
