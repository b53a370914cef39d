# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import pytest
import torch

from prestissimo import ops
from prestissimo.nn.codec import MelCodec, MelCodecConfig, patches_of
from prestissimo.nn.magnitudes import MagNet, MagNetConfig, noise_texture
from prestissimo.nn.packing import pack_linears
from prestissimo.nn.phase import inverse_stft
from prestissimo.nn.stft import MelConfig, log_mel, mel_of, mid_side, stft

MEL = MelConfig(sample_rate=8000, n_fft=256, hop=64, n_mels=20)
MAGNET = MagNetConfig(width=16, blocks=2, kernel=3, spread_bands=6, texture_frames=24)
SMALL = MelCodecConfig(mel=MEL, magnet=MAGNET, patch_frames=4, channels=24, texture=0.7)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_codec(config: MelCodecConfig = SMALL, dtype: torch.dtype = torch.float64) -> MelCodec:
    """A codec with orthonormal random components and a network whose residual matters."""
    torch.manual_seed(5)
    codec = MelCodec(config).to(dtype)
    size = (config.patch_size, config.channels)
    codec.components.copy_(torch.linalg.qr(torch.randn(size, dtype=dtype)).Q.T)
    codec.mean.fill_(-2.0)
    codec.scale.copy_(torch.linspace(0.05, 0.2, config.channels))
    codec.gain.copy_(0.1 * torch.randn(codec.gain.shape))
    torch.nn.init.normal_(codec.magnet.residual.weight, std=0.2)
    torch.nn.init.normal_(codec.magnet.spread.weight, std=0.2)
    return codec.requires_grad_(False)


def latents(frames: int, items: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 0.5 * torch.randn(items, SMALL.channels, frames, generator=generator(1), dtype=dtype)


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 2000])
def test_any_sample_count_is_taken(samples: int) -> None:
    codec = random_codec()
    audio = torch.rand(2, 2, samples, generator=generator(0), dtype=torch.float64) - 0.5
    z = codec.encode(audio)
    assert z.shape == (2, 24, -(-samples // 256))
    assert z.shape[2] == codec.latent_frames(samples)
    assert codec.decode_waveform(z, length=samples).shape == audio.shape
    padded = torch.nn.functional.pad(audio, (0, -samples % 256))
    torch.testing.assert_close(codec.encode(padded), z)


def test_all_components_keep_the_log_mel() -> None:
    codec = random_codec(dataclasses.replace(SMALL, channels=SMALL.patch_size))
    mel = log_mel(torch.rand(2, 2, 1024, generator=generator(2), dtype=torch.float64) - 0.5, MEL)
    torch.testing.assert_close(codec.decode_log_mel(codec.encode_log_mel(mel)), mel)


def test_fewer_components_project() -> None:
    codec = random_codec()
    mel = log_mel(torch.rand(1, 2, 1024, generator=generator(2), dtype=torch.float64) - 0.5, MEL)
    once = codec.decode_log_mel(codec.encode_log_mel(mel))
    torch.testing.assert_close(codec.decode_log_mel(codec.encode_log_mel(once)), once)
    rest = patches_of(mel - once, SMALL)
    assert (rest @ codec.components.T).abs().max() < 1e-9


def test_an_untrained_network_returns_the_mel_it_was_given() -> None:
    """The interpolated log-mel alone has nearly the mel of its source where the spectrum is smooth."""
    config = MelConfig()
    net = MagNet(MagNetConfig(width=32, blocks=1), config)
    torch.nn.init.zeros_(net.residual.weight)
    tilt = torch.linspace(1, -1, 96).view(1, 1, 96, 1).expand(1, 2, 96, 6)
    again = mel_of(net(tilt)[0].exp(), config).transpose(2, 3)
    assert (again - tilt).abs().max() < 0.12


def test_decoding_stages_fit_together() -> None:
    codec = random_codec()
    z = latents(5, items=2)
    log_magnitude = codec.decode_magnitudes(z)
    assert log_magnitude.shape == (2, 2, 20, 129)
    torch.testing.assert_close(log_magnitude, codec.magnitudes_of(codec.decode_log_mel(z)))
    phase = codec.phase_of(log_magnitude)
    assert phase.abs().max() <= torch.pi
    audio = codec.decode_waveform(z)
    assert audio.shape == (2, 2, 5 * 256)
    torch.testing.assert_close(codec.decode_waveform(z, phase), audio)
    assert torch.equal(codec.decode_waveform(z), audio)


def test_phase_makes_a_signal_of_these_magnitudes() -> None:
    """Magnitudes of a real signal: the decoded phases must reach them far better than random phases do."""
    time = torch.arange(256 * 30, dtype=torch.float64) / 8000
    tone = sum(torch.sin(2 * torch.pi * f * time) / f for f in (220.0, 445.0, 871.0, 1790.0))
    codec = random_codec()
    magnitude = stft(mid_side(torch.stack([tone, 0.5 * tone])[None]), 256, 64).abs() + 1e-4
    phase = codec.phase_of(magnitude.log())

    def error(phase: torch.Tensor) -> float:
        rows = magnitude.log().flatten(0, 1)
        again = stft(inverse_stft(rows, phase.flatten(0, 1), 64), 256, 64).abs()
        return float((again.view_as(magnitude) - magnitude).norm() / magnitude.norm())

    random = 6.28 * torch.rand(magnitude.shape, generator=generator(3)).double()
    assert error(phase) < 0.15 < 0.4 < error(random)


def test_kernels_make_the_audio_of_the_references() -> None:
    """And nothing of it runs through a reference; a peak of the phases that falls otherwise is all that may differ."""
    pytest.importorskip("prestissimo._core")
    codec, z = random_codec(dtype=torch.float32), latents(19, items=2, dtype=torch.float32)
    codec.kernels = "reference"
    expected = codec.decode_waveform(z)
    codec.kernels = "auto"
    pack_linears(codec)
    with ops.strict_kernels():
        audio = codec.decode_waveform(z)
    assert 10 * torch.log10(expected.square().mean() / (audio - expected).square().mean()) > 60


@pytest.mark.parametrize("tile", [1, 2, 3, 7, 19, 64])
@pytest.mark.parametrize("texture", [0.0, 0.7])
def test_tiles_equal_the_whole(tile: int, texture: float) -> None:
    codec = random_codec(dataclasses.replace(SMALL, texture=texture))
    z = latents(19, items=2)
    whole = codec.decode_waveform(z)
    # phases handed on are rounded to 2^-32 of a turn, and X / |X| enlarges that where |X| is small
    torch.testing.assert_close(
        codec.decode_tiled(z, tile), whole, rtol=0, atol=1e-6 * float(whole.abs().max())
    )
    pieces = list(codec.decode_tiles(z, tile))
    assert [p.shape[-1] for p in pieces[:-1]] == [tile * 256] * (len(pieces) - 1)


def test_tiles_equal_the_whole_at_full_size() -> None:
    config = MelCodecConfig(magnet=MagNetConfig(width=32, blocks=2), texture=1.0)
    torch.manual_seed(0)
    codec = MelCodec(config).double()
    codec.components.copy_(torch.linalg.qr(torch.randn(config.patch_size, config.channels).double()).Q.T)
    codec.scale.fill_(0.1)
    z = 0.5 * torch.randn(1, 128, 23, generator=generator(4), dtype=torch.float64)
    with torch.no_grad():
        whole = codec.decode_waveform(z)
    scale = float(whole.abs().max())
    torch.testing.assert_close(codec.decode_tiled(z, 8), whole, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("tile", [1, 5, 19])
def test_tiles_of_one_spectrum_equal_the_whole_to_the_bit(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same magnitudes: how a matrix product rounds may depend on the number of its rows."""
    codec = random_codec(dtype=torch.float32)
    z = latents(19, items=2, dtype=torch.float32)
    magnitudes = codec.decode_magnitudes(z)

    def cut(mel: torch.Tensor, first_frame: int = 0) -> torch.Tensor:
        return magnitudes[:, :, first_frame : first_frame + mel.shape[3]]

    monkeypatch.setattr(codec, "magnitudes_of", cut)
    assert torch.equal(codec.decode_tiled(z, tile), codec.decode_waveform(z))


def test_references_decode_the_same_music() -> None:
    """In float64, where both are the references, nothing differs; in float32 the spectrum agrees."""
    codec, z = random_codec(dtype=torch.float32), latents(19, dtype=torch.float32)
    codec.kernels = "reference"
    assert codec.magnet.kernels == "reference"
    reference = stft(codec.decode_waveform(z), 256, 64).abs()
    codec.kernels = "auto"
    assert codec.magnet.kernels == "auto"
    ours = stft(codec.decode_waveform(z), 256, 64).abs()
    assert (ours - reference).norm() < 1e-3 * reference.norm()


def test_batch_items_do_not_meet() -> None:
    codec = random_codec()
    z = latents(9, items=3)
    together = codec.decode_waveform(z)
    for item in range(3):
        alone = codec.decode_waveform(z[item : item + 1])
        torch.testing.assert_close(together[item : item + 1], alone, rtol=0, atol=1e-9)


def test_receptive_field_is_finite() -> None:
    codec = random_codec()
    z = latents(40)
    changed = z.clone()
    changed[..., 20] += 3.0
    difference = (codec.decode_magnitudes(changed) - codec.decode_magnitudes(z)).abs().amax((0, 1, 3))
    touched = difference.nonzero().flatten()
    assert difference[20 * 4 : 21 * 4].min() > 0
    assert int(touched.min()) >= 20 * 4 - codec.magnet.context_frames
    assert int(touched.max()) < 21 * 4 + codec.magnet.context_frames


def test_gradients_reach_the_latents_at_every_stage() -> None:
    codec = random_codec()
    z = latents(3).requires_grad_()
    assert torch.autograd.gradcheck(codec.decode_log_mel, z[..., :1].detach().requires_grad_())
    phase = codec.phase_of(codec.decode_magnitudes(z.detach()))
    direction = torch.randn(z.shape, generator=generator(6), dtype=z.dtype)
    for decode in (codec.decode_magnitudes, lambda x: codec.decode_waveform(x, phase)):
        weight = torch.randn(decode(z.detach()).shape, generator=generator(7), dtype=z.dtype)
        (gradient,) = torch.autograd.grad((decode(z) * weight).sum(), z)
        step = 1e-5 * direction
        difference = ((decode(z + step) - decode(z - step)) * weight).sum() / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), difference.detach(), rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(codec.decode_waveform(z).square().sum(), z)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    audio = torch.rand(1, 2, 700, generator=generator(8), dtype=torch.float64).sub(0.5).requires_grad_()
    assert torch.autograd.grad(codec.encode(audio).square().sum(), audio)[0].abs().max() > 0


def test_texture_raises_the_spread_and_repeats() -> None:
    noise = noise_texture(64, 512, 128)
    assert noise.shape == (2, 64, 257)
    assert abs(float(noise.abs().mean()) - 0.475) < 0.03
    assert torch.equal(noise, noise_texture(64, 512, 128))
    step = (noise.roll(-1, 1) - noise).abs().mean((0, 2))
    assert step[-1] < 1.3 * step.mean(), "the texture must go on where it repeats"
    smooth = random_codec(dataclasses.replace(SMALL, texture=0.0))
    rough = random_codec()
    z = torch.zeros(1, 24, 6, dtype=torch.float64)
    difference = rough.decode_magnitudes(z) - smooth.decode_magnitudes(z)
    assert difference.abs().max() > 0.3
    assert difference.abs().mean() < 0.7 * 0.6


def test_configuration_survives_json() -> None:
    assert MelCodecConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    assert (SMALL.hop, SMALL.patch_size, SMALL.sample_rate, SMALL.latent_rate) == (256, 160, 8000, 31.25)
    with pytest.raises(TypeError, match="unexpected"):
        MelCodecConfig.from_dict({"unexpected": 1})


def test_state_survives_a_state_dict() -> None:
    codec, other = random_codec(), MelCodec(SMALL).double()
    other.load_state_dict(codec.state_dict())
    assert torch.equal(other.decode_waveform(latents(3)), codec.decode_waveform(latents(3)))


def test_wrong_input_names_the_argument() -> None:
    codec = random_codec()
    with pytest.raises(ValueError, match=r"audio must be \(B, 2, N\)"):
        codec.encode(torch.zeros(2, 100))
    with pytest.raises(ValueError, match=r"mel must be \(B, 2, 20"):
        codec.encode_log_mel(torch.zeros(1, 2, 20, 5))
    with pytest.raises(ValueError, match=r"latents must be \(B, 24, T\)"):
        codec.decode_log_mel(torch.zeros(1, 23, 4))
    with pytest.raises(ValueError, match="length must be"):
        codec.decode_waveform(latents(2), length=513)
    with pytest.raises(ValueError, match=r"phase must be torch\.float64"):
        codec.decode_waveform(latents(2), torch.zeros(1, 2, 8, 129))
    with pytest.raises(ValueError, match="tile must be positive"):
        codec.decode_tiled(latents(2), 0)
    with pytest.raises(ValueError, match="log_mel must have a multiple of 2"):
        codec.magnet(torch.zeros(1, 2, 20, 3, dtype=torch.float64))
    for wrong in ({"channels": 161}, {"patch_frames": 3}, {"latent_std": 0.0}, {"phase_rounds": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            dataclasses.replace(SMALL, **wrong)
    for name, value in (("width", 0), ("kernel", 4), ("spread_bands", 1)):
        with pytest.raises(ValueError, match=name):
            MagNetConfig(**{name: value})
