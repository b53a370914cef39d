# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prestissimo.data import FeatureStore, FeatureWriter
from prestissimo.models.checkpoint import load_into
from prestissimo.models.config import read_model_config
from prestissimo.nn.codec import MelCodec, MelCodecConfig
from prestissimo.nn.magnitudes import MagNetConfig
from prestissimo.nn.stft import MelConfig
from prestissimo.training.codec import CodecTrainingConfig, MagNetBatches, fit_codec, fit_gain, train_codec
from prestissimo.training.configuration import find_configuration
from prestissimo.training.export import BUNDLED
from prestissimo.training.loop import LoopConfig
from prestissimo.training.pca import encode_store, fit_pca, patch_statistics, read_latents

MEL = MelConfig(n_fft=256, hop=64, n_mels=24)
CODEC = MelCodecConfig(
    mel=MEL, magnet=MagNetConfig(width=24, blocks=2, kernel=3, spread_bands=6, texture_frames=24),
    patch_frames=8, channels=32, texture=1.0,
)  # fmt: skip


def tones(seconds: float, seed: int) -> np.ndarray:
    """Stereo tones that fade in and out over noise, float32 (N, 2)."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 44100) // 512 * 512) / 44100
    sound = 0.02 * rng.standard_normal((len(time), 2))
    for _ in range(6):
        tone = (
            np.sin(2 * np.pi * rng.uniform(200, 8000) * time) * np.sin(np.pi * rng.uniform(1, 4) * time) ** 2
        )
        sound += tone[:, None] * rng.uniform(0, 0.15, 2)
    return sound.astype(np.float32)


def add(folder: Path, number: int, split: str) -> None:
    writer = FeatureWriter(folder, MEL)
    entry = {"id": f"package/{number}", "package": "package", "split": split, "title": str(number)}
    writer.add(tones(1.5, number), 0.0, author="a", licence="CC0", genre="test", **entry)
    writer.publish()


@pytest.fixture
def config(tmp_path: Path) -> CodecTrainingConfig:
    for number in range(5):
        add(tmp_path / "build", number, "heldout" if number == 4 else "train")
    loop = LoopConfig(steps=60, learning_rate=3e-3, warmup=5, validate_every=30, ema=0.9, log_every=5)
    return CodecTrainingConfig(
        tmp_path / "build", tmp_path / "run", CODEC, loop, batch=4, frames=32, whitening=0.5
    )


def test_statistics_are_those_of_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    mels = [torch.randn(2, 24, 8 * n + 3, generator=generator) * 2 - 4 for n in (20, 31)]
    statistics = patch_statistics(mels, CODEC)
    rows = np.concatenate([m[..., :-3].permute(2, 0, 1).reshape(-1, CODEC.patch_size).numpy() for m in mels])
    assert statistics.count == 51
    np.testing.assert_allclose(statistics.mean, rows.mean(0, dtype=np.float64), atol=1e-5)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.T, bias=True), atol=1e-4)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_latents_have_the_asked_deviation(config: CodecTrainingConfig, whitening: float) -> None:
    store = FeatureStore(config.data)
    mels = [store.log_mel(t) for t in store.select("train")]
    codec = MelCodec(CODEC)
    codec.load_state_dict(fit_pca(patch_statistics(mels, CODEC), CODEC, whitening), strict=False)
    z = torch.cat([codec.encode_log_mel(m[None])[0] for m in mels], 1)
    assert abs(float(z.square().mean().sqrt()) - 0.5) < 1e-3
    deviation = z.std(1, correction=0)
    expected = deviation[0] * (deviation / deviation[0]) if whitening < 1 else torch.full_like(deviation, 0.5)
    torch.testing.assert_close(deviation, expected, rtol=1e-2, atol=0)
    assert (codec.components @ codec.components.T - torch.eye(32)).abs().max() < 1e-5
    spread = {0.0: 1.0, 0.5: 0.5, 1.0: 0.0}[whitening]
    plain = fit_pca(patch_statistics(mels, CODEC), CODEC, 0.0)["scale"][0]
    variance = (z / codec.scale[:, None]).std(1) * plain
    ratio = (deviation[0] / deviation[20]).log() / (variance[0] / variance[20]).log()
    assert abs(float(ratio) - spread) < 0.02


def test_more_components_lose_less(config: CodecTrainingConfig) -> None:
    store = FeatureStore(config.data)
    held_out = store.log_mel(store.select("heldout")[0])[None]
    statistics = patch_statistics([store.log_mel(t) for t in store.select("train")], CODEC)
    errors = []
    for channels in (4, 16, 64):
        codec = MelCodec(replace(CODEC, channels=channels))
        codec.load_state_dict(fit_pca(statistics, codec.config), strict=False)
        errors.append(float((codec.decode_log_mel(codec.encode_log_mel(held_out)) - held_out).abs().mean()))
    assert errors == sorted(errors, reverse=True)


def test_latents_are_appended_and_survive_a_kill(config: CodecTrainingConfig) -> None:
    codec = fit_codec(config, FeatureStore(config.data))
    assert encode_store(codec, FeatureStore(config.data), config.data) == 5
    before, index = read_latents(config.data)
    assert [e["id"] for e in index["tracks"]] == [f"package/{n}" for n in range(5)]
    with (config.data / "latents.f16").open("ab") as file:
        file.write(b"half a track")
    add(config.data, 5, "train")
    store = FeatureStore(config.data)
    assert encode_store(codec, store, config.data) == 1
    after, index = read_latents(config.data)
    np.testing.assert_array_equal(after[: len(before)], before)
    entry = index["tracks"][5]
    expected = codec.encode_log_mel(store.log_mel("package/5")[None])[0].T
    stored = torch.from_numpy(after[entry["offset"] : entry["offset"] + entry["frames"]].astype(np.float32))
    torch.testing.assert_close(stored, expected, rtol=1e-3, atol=1e-3)
    codec.scale.mul_(2)
    with pytest.raises(ValueError, match="another codec"):
        encode_store(codec, store, config.data)


def test_batches_depend_on_the_step_alone(config: CodecTrainingConfig) -> None:
    store = FeatureStore(config.data)
    codec = fit_codec(config, store)
    one, two = (MagNetBatches(store, store.select("train"), codec, config) for _ in range(2))
    one.batch(0)
    for a, b in zip(one.batch(7), two.batch(7), strict=True):
        assert torch.equal(a, b)
    mel, magnitude = one.batch(3)
    assert mel.shape == (4, 2, 24, 32)
    assert magnitude.shape == (4, 2, 32, 129)
    assert not torch.equal(mel, one.batch(4)[0])


def test_training_learns_resumes_and_ships(config: CodecTrainingConfig) -> None:
    codec = train_codec(config)
    losses = [json.loads(line) for line in (config.output / "log.jsonl").read_text().splitlines()]
    validation = [row["validation/loss"] for row in losses if "validation/loss" in row]
    training = [row["loss"] for row in losses if "loss" in row]
    assert training[-1] < 0.8 * training[0]
    assert len(validation) == 2

    shipped = MelCodec(MelCodecConfig.from_dict(CODEC.to_dict()))
    assert load_into(shipped, config.output / "codec.safetensors").config == CODEC.to_dict()
    store = FeatureStore(config.data)
    z = codec.encode(store.audio("package/4")[None])
    close = shipped.decode_magnitudes(z) - codec.decode_magnitudes(z)
    assert close.abs().mean() < 0.03, "int8 must not be audible"

    components = (config.output / "components.safetensors").read_bytes()
    again = train_codec(replace(config, loop=replace(config.loop, steps=65)))
    assert (config.output / "components.safetensors").read_bytes() == components
    assert not torch.equal(again.magnet.embed.weight, codec.magnet.embed.weight)


def test_gains_restore_the_energy(config: CodecTrainingConfig) -> None:
    store = FeatureStore(config.data)
    quiet = replace(config, latent_noise=0.0, gain_db=(0.0, 0.0))
    codec = fit_codec(quiet, store).requires_grad_(False)
    codec.magnet.residual.bias.fill_(-0.5)  # an untrained network is too loud for gains of at most 6 dB
    batches = MagNetBatches(store, store.select("train"), codec, quiet)

    def error() -> torch.Tensor:
        """Mean over windows of the logarithm of made over real energy, per channel and eighth of the bins."""
        rows = []
        for step in range(100, 116):
            mel, magnitude = batches.batch(step)
            made, real = (
                x.square().mean(2)[..., :128].unflatten(-1, (8, 16)).sum(-1)
                for x in (codec.magnitudes_of(mel).exp(), magnitude)
            )
            rows.append((made / real).log())
        return torch.cat(rows).mean(0)

    assert error()[:, 3:].abs().mean() > 0.5
    fit_gain(codec, batches, count=16)
    assert error()[:, 3:].abs().max() < 0.25


def test_configuration_from_toml(tmp_path: Path) -> None:
    bundled = find_configuration(None, "codec")
    config = CodecTrainingConfig.read(bundled)
    assert config.codec == read_model_config(BUNDLED).codec, "the file must be that of the codec that ships"
    assert config.loop.steps > 1000
    text = bundled.read_text().replace('data = "data"', "")
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.toml must have 'data'"):
        CodecTrainingConfig.read(tmp_path / "a.toml")
    given = CodecTrainingConfig.read(tmp_path / "a.toml", data=tmp_path, steps=3)
    assert (given.data, given.loop.steps, given.loop.warmup) == (tmp_path, 3, 100)
    with pytest.raises(ValueError, match="frames must be a multiple of 8"):
        replace(config, frames=12)
    with pytest.raises(ValueError, match="latent_noise"):
        replace(config, latent_noise=-1.0)
