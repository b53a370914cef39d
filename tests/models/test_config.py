# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models

from prestissimo.models.checkpoint import save_checkpoint
from prestissimo.models.config import (
    ModelConfig,
    SamplingConfig,
    assemble_model,
    bundled_models,
    load_model,
    read_model_config,
)
from prestissimo.models.schema import from_json
from prestissimo.nn import DiT, DiTConfig, MelCodec, MelCodecConfig, TextEncoder, TextEncoderConfig
from prestissimo.nn.magnitudes import MagNetConfig
from prestissimo.nn.stft import MelConfig

TEXT = TextEncoderConfig(vocabulary=5, width=16, depth=1, heads=2, ff_inner=8, max_tokens=6)
CODEC = MelCodecConfig(
    mel=MelConfig(sample_rate=8000, n_fft=256, hop=64, n_mels=12),
    magnet=MagNetConfig(width=8, blocks=1, expansion=1, kernel=3, spread_bands=4, texture_frames=32),
    patch_frames=4,
    channels=6,
)
DIT = DiTConfig(latent_channels=6, width=16, depth=1, heads=2, ff_inner=8, text_dim=16, features=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model, if a very small one."""
    torch.manual_seed(0)
    path = tmp_path / "model"
    path.mkdir()
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "calm": 2}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.save(str(path / "tokenizer.json"))
    save_checkpoint(path / "text.safetensors", TextEncoder(TEXT, tokenizer), asdict(TEXT))
    save_checkpoint(path / "codec.safetensors", MelCodec(CODEC), CODEC.to_dict())
    save_checkpoint(path / "dit.safetensors", DiT(DIT), asdict(DIT), int8=True)
    assemble_model(path, "tiny", SamplingConfig(steps=3, interval=(0.1, 5.0)))
    return path


def values() -> dict[str, Any]:
    config = ModelConfig("tiny", TEXT, CODEC, DIT)
    return json.loads(json.dumps(asdict(config)))


def entry(values: dict[str, Any], place: str) -> dict[str, Any]:
    """The object that holds the value at `place`, such as "dit.width"."""
    for part in place.split(".")[:-1]:
        values = values[part]
    return values


def test_a_folder_is_what_was_saved(folder: Path) -> None:
    config, text, dit, codec = load_model(folder)
    assert (config.name, config.text, config.codec, config.dit) == ("tiny", TEXT, CODEC, DIT)
    assert config.sampling == SamplingConfig(steps=3, interval=(0.1, 5.0))
    assert set(config.sha256) == {"text", "codec", "dit"}
    assert config == read_model_config(folder)
    for module in (text, dit, codec):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    tokens = text.encode(["calm"])
    x = torch.randn(1, 6, 5)
    y = dit(x, {"sigma": torch.ones(1), "seconds": torch.ones(1)}, tokens.states, tokens.mask)
    assert y.shape == x.shape
    assert torch.isfinite(codec.decode_waveform(x, length=1000)).all()
    stored = {name: tensor for module in (text, dit, codec) for name, tensor in module.state_dict().items()}
    assert not any(tensor.is_meta for tensor in stored.values())


def test_json_round_trip() -> None:
    assert from_json(ModelConfig, values(), "x") == ModelConfig("tiny", TEXT, CODEC, DIT)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("dit.width", "320", r"dit.width must be of type int, got '320'"),
        ("dit.width", True, r"dit.width must be of type int, got True"),
        ("dit.width", 16.0, r"dit.width must be of type int, got 16.0"),
        ("dit.width", 15, r"dit: width must be heads"),
        ("dit.conditions", "sigma", r"dit.conditions must be a list, got 'sigma'"),
        ("dit.conditions", ["sigma"], r"dit.conditions must have 'seconds'"),
        ("dit.conditions", ["sigma", 3], r"dit.conditions\[1\] must be of type str, got 3"),
        ("dit.latent_channels", 7, r"must be equal, got 7 and 6"),
        ("dit.text_dim", 7, r"must be equal, got 7 and 16"),
        ("dit.rope_dim", "all", r"dit.rope_dim must be of type int"),
        ("dit.bias", 3, r"dit must not have 'bias'; it may have latent_channels, "),
        ("dit", 3, r"dit must be an object, got 3"),
        ("codec.mel.hop", 0, r"codec.mel: hop must be positive"),
        ("sampling.sigma_data", 10**400, r"sampling.sigma_data is too large, got a huge integer"),
        ("sampling.sigma_max", 0.001, r"sampling: sigma_min and sigma_max"),
        ("sampling.sampler", "magic", r"sampling: sampler must be one of euler, heun, .*, got 'magic'"),
        ("sampling.steps", 0, r"sampling: steps must be"),
        ("sampling.rescale", 2, r"sampling: rescale must be"),
        ("sampling.guidance", -1, r"sampling: guidance must be"),
        ("sampling.rho", float("inf"), r"sampling: rho must be"),
        ("sampling.interval", [1.0], r"sampling.interval must have 2 entries, got 1"),
        ("sampling.interval", [2.0, 1.0], r"sampling: interval must be"),
        ("sha256", {"vocoder": "a"}, r"sha256 must have no part but text, codec, dit, got 'vocoder'"),
        ("sha256", {"dit": 3}, r"sha256.dit must be of type str"),
        ("format", 2, r"format must be 1, got 2"),
        ("name", None, r"name must be of type str, got None"),
    ],
)
def test_wrong_entries_are_named(folder: Path, place: str, value: object, message: str) -> None:
    changed = values()
    entry(changed, place)[place.split(".")[-1]] = value
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message) as caught:
        load_model(folder)
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize("place", ["name", "dit", "dit.latent_channels"])
def test_missing_entries_are_named(place: str) -> None:
    changed = copy.deepcopy(values())
    last = place.split(".")[-1]
    del entry(changed, place)[last]
    with pytest.raises(ValueError, match=f"must have '{last}'"):
        from_json(ModelConfig, changed, "config.json")


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\ud800", '{"name": 1' + "0" * 5000 + "}", "[]"])
def test_what_is_no_configuration(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(folder)


def test_a_huge_configuration_is_not_read(folder: Path) -> None:
    (folder / "config.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(ValueError, match="at most 1048576 bytes"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "text.safetensors", "codec.safetensors", "dit.safetensors"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_model(folder)


def test_weights_of_another_model(folder: Path) -> None:
    save_checkpoint(folder / "dit.safetensors", DiT(DIT), asdict(DIT), int8=True)
    with pytest.raises(ValueError, match=r"dit\.safetensors: these are not the weights"):
        load_model(folder)
    assemble_model(folder, "again")
    assert load_model(folder)[0].name == "again"


def test_a_text_encoder_of_another_size(folder: Path) -> None:
    changed = values()
    changed["text"]["depth"] = 2
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"text\.safetensors: not of the sizes"):
        load_model(folder)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            "dit.ff_inner",
            2**44,
            r"dit\.safetensors: blocks.0.feed_forward.contract.weight must be \[16, 17592186",
        ),
        ("dit.depth", 10**9, "depth must be at most 1024"),
        ("text.vocabulary", 2**44, r"text\.safetensors: not of the sizes"),
        ("codec.patch_frames", 2**40, r"codec\.safetensors: "),
        ("codec.mel.n_fft", 2**40, r"codec.mel.n_fft must be at most"),
        ("codec.magnet.texture_frames", 2**40, "texture_frames must be at most"),
    ],
)
def test_hostile_sizes_are_not_allocated(folder: Path, place: str, value: int, message: str) -> None:
    changed = values()
    entry(changed, place)[place.split(".")[-1]] = value
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_bundled_models_are_whole() -> None:
    for name, path in bundled_models().items():
        config, *_ = load_model(path)
        assert config.name == name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["name", "text", "codec", "dit", "sampling", "sha256", "format"]), json_values)
def test_nothing_but_value_errors(section: str, value: object) -> None:
    changed = values() | {section: value}
    try:
        config = from_json(ModelConfig, changed, "config.json")
    except ValueError:
        return
    assert isinstance(config, ModelConfig)


@given(st.sampled_from(sorted(asdict(DIT))), json_values)
def test_nothing_but_value_errors_in_a_section(name: str, value: object) -> None:
    changed = asdict(DIT) | {name: value}
    try:
        config = from_json(DiTConfig, changed, "dit")
    except ValueError:
        return
    assert isinstance(config, DiTConfig)
