# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from prestissimo.nn.stft import MelConfig, istft, left_right, log_mel, mel_filters, mid_side, stft


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("samples", [1, 511, 512, 513, 2048, 30011])
def test_stft_equals_torch_and_any_length_comes_back(samples: int) -> None:
    audio = noise(3, 2, samples)
    spectrum = stft(audio, 2048, 512)
    frames = -(-samples // 512)
    assert spectrum.shape == (3, 2, frames, 1025)
    padded = torch.nn.functional.pad(audio.flatten(0, 1), (0, frames * 512 - samples))
    theirs = torch.stft(
        padded, 2048, 512, window=torch.hann_window(2048, dtype=audio.dtype), pad_mode="constant",
        return_complex=True,
    )  # fmt: skip
    theirs = theirs[..., :frames].transpose(1, 2).view_as(spectrum)
    torch.testing.assert_close(spectrum, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(istft(spectrum, 2048, 512, samples), audio, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (512, 64)])
def test_other_frames_invert(n_fft: int, hop: int) -> None:
    audio = noise(5000)
    torch.testing.assert_close(istft(stft(audio, n_fft, hop), n_fft, hop, 5000), audio, rtol=0, atol=1e-10)


def test_gradients() -> None:
    audio = noise(70).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.view_as_real(stft(x, 32, 8)), audio)
    spectrum = stft(noise(70), 32, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: istft(x, 32, 8), spectrum)


@pytest.mark.parametrize(
    ("sample_rate", "n_fft", "n_mels"), [(44100, 2048, 96), (44100, 2048, 128), (16000, 512, 96)]
)
def test_mel_filters_are_librosas(sample_rate: int, n_fft: int, n_mels: int) -> None:
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels)
    assert np.abs(mel_filters(sample_rate, n_fft, n_mels) - theirs).max() <= 1e-6


def test_log_mel_reads_mid_and_side() -> None:
    config = MelConfig()
    left = noise(1, 1, 9000, dtype=torch.float32)
    mono = log_mel(torch.cat([left, left], 1), config)
    assert mono.shape == (1, 2, 96, 18)
    torch.testing.assert_close(mono[:, 1], torch.full_like(mono[:, 1], config.floor).log())
    wide = log_mel(torch.cat([left, -left], 1), config)
    torch.testing.assert_close(wide[:, 1], mono[:, 0])


def test_log_mel_of_a_tone_peaks_at_its_band() -> None:
    time = torch.arange(44100) / 44100
    tone = torch.sin(2 * torch.pi * 1000 * time).expand(1, 2, -1)
    band = log_mel(tone)[0, 0, :, 40].argmax()
    centres = np.argmax(mel_filters(44100, 2048, 96), 1) * 44100 / 2048
    assert abs(centres[band] - 1000) < 50


def test_caches_filled_under_inference_mode_serve_gradients() -> None:
    config = MelConfig(n_fft=256, hop=64, n_mels=20)
    with torch.inference_mode():
        log_mel(torch.zeros(1, 2, 300), config)
        istft(stft(torch.zeros(300), 256, 64), 256, 64)
    audio = noise(1, 2, 300, dtype=torch.float32).requires_grad_()
    log_mel(audio, config).sum().backward()
    istft(stft(audio, 256, 64), 256, 64).sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


def test_mid_side_inverts() -> None:
    audio = noise(2, 2, 100)
    torch.testing.assert_close(left_right(mid_side(audio)), audio)


def test_wrong_input_names_the_argument() -> None:
    with pytest.raises(ValueError, match="hop must divide"):
        stft(torch.zeros(100), 64, 24)
    with pytest.raises(ValueError, match="audio must hold"):
        stft(torch.zeros(2, 0), 64, 16)
    with pytest.raises(ValueError, match="spectrum must have 33 bins"):
        istft(torch.zeros(4, 32, dtype=torch.complex64), 64, 16)
    with pytest.raises(ValueError, match="length must be"):
        istft(torch.zeros(4, 33, dtype=torch.complex64), 64, 16, 65)
    with pytest.raises(ValueError, match="audio must be"):
        log_mel(torch.zeros(2, 100))
    with pytest.raises(ValueError, match="floor must be"):
        MelConfig(floor=0.0)
