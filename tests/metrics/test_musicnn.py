# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prestissimo.metrics import musicnn
from prestissimo.metrics.musicnn import NAMES, MusiCNN

needs_weights = pytest.mark.usefixtures("judges")


def plucked(frequencies: list[float], seconds: float = 6.0, rate: int = 16_000) -> torch.Tensor:
    """Decaying harmonic tones struck every half second."""
    t = torch.arange(int(0.5 * rate)) / rate
    notes = []
    for i in range(int(seconds / 0.5)):
        f = frequencies[i % len(frequencies)]
        notes.append(
            sum(torch.sin(2 * torch.pi * f * k * t) / k**1.5 * torch.exp(-3 * t) for k in range(1, 9))
        )
    return 0.2 * torch.cat(notes)[None]


@pytest.fixture(scope="module", params=NAMES)
def judge(judges: None, request: pytest.FixtureRequest) -> MusiCNN:
    return MusiCNN(request.param)


@needs_weights
def test_shapes_patches_and_range(judge: MusiCNN) -> None:
    audio = plucked([220.0, 330.0])
    out = judge(audio)
    # 376 frames hold two patches of 187
    assert out.probabilities.shape == (1, 2, 50)
    assert out.embeddings.shape == (1, 2, judge.embedding_width)
    assert len(judge.tags) == len(set(judge.tags)) == 50
    assert 0 <= out.probabilities.min() <= out.probabilities.max() <= 1
    assert judge(audio, hop=63).probabilities.shape[1] == 4
    spread = judge(audio, patches=3).probabilities
    assert spread.shape[1] == 3
    torch.testing.assert_close(spread[:, 0], out.probabilities[:, 0])


@needs_weights
def test_items_of_a_batch_do_not_meet(judge: MusiCNN) -> None:
    a, b = plucked([220.0]), 0.1 * torch.randn(1, 96_000, generator=torch.Generator().manual_seed(1))
    both = judge(torch.cat([a, b]))
    torch.testing.assert_close(both.embeddings[:1], judge(a).embeddings, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(both.embeddings[1:], judge(b).embeddings, rtol=1e-3, atol=1e-4)


@needs_weights
def test_gradient_reaches_the_waveform_and_is_right(judge: MusiCNN) -> None:
    audio = plucked([196.0, 247.0], seconds=3.0).requires_grad_()
    tag = judge.tags.index("guitar")

    def logit(x: torch.Tensor) -> torch.Tensor:
        return torch.logit(judge(x).probabilities[0, 0, tag].double())

    logit(audio).backward()
    assert audio.grad is not None
    step = 1e-3 * audio.grad / audio.grad.norm()
    with torch.no_grad():
        slope = (logit(audio + step) - logit(audio - step)) / 2e-3
    assert slope.item() == pytest.approx(audio.grad.norm().item(), rel=0.15)


@needs_weights
def test_magnatagatune_judges_hear_a_plucked_string() -> None:
    for name in ("MTT_musicnn", "MTT_vgg"):
        net = MusiCNN(name)
        p = net(plucked([196.0, 247.0, 294.0, 392.0])).probabilities.mean((0, 1))
        plucked_or_struck = max(
            p[net.tags.index(t)].item() for t in ("guitar", "piano", "harp", "harpsichord", "sitar")
        )
        assert plucked_or_struck > 5 * p[net.tags.index("metal")].item()
        assert plucked_or_struck > 5 * p[net.tags.index("choir")].item()


@needs_weights
def test_logmel_is_the_formula(judge: MusiCNN) -> None:
    # a sine of amplitude a in the middle of bin k has power (a * sum(window) / 2)^2 there
    rate, a = 16_000, 0.25
    k = 64
    t = torch.arange(16_000) / rate
    mel = judge.logmel(a * torch.sin(2 * torch.pi * k * rate / 512 * t)[None])
    assert mel.shape == (1, 63, 96)
    window = torch.hann_window(512)
    power = torch.zeros(257)
    power[k] = (a * window.sum() / 2) ** 2
    power[k - 1] = power[k + 1] = power[k] / 4  # the Hann window's two side bins, amplitude 1/2
    expected = torch.log10(1 + 1e4 * (judge.filters @ power))
    torch.testing.assert_close(mel[0, 31], expected, rtol=1e-3, atol=1e-3)


@needs_weights
@pytest.mark.parametrize("shape", [(48_000,), (1, 2, 48_000)])
def test_wrong_shape_names_the_argument(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="audio must be"):
        MusiCNN()(torch.zeros(shape))


@needs_weights
def test_other_wrong_arguments_name_themselves() -> None:
    net = MusiCNN()
    with pytest.raises(ValueError, match="at least 47616 samples"):
        net(torch.zeros(1, 47_000))
    with pytest.raises(ValueError, match="hop"):
        net(torch.zeros(1, 48_000), hop=0)
    with pytest.raises(ValueError, match="patches"):
        net(torch.zeros(1, 48_000), patches=0)
    with pytest.raises(ValueError, match="MTT_musicnn"):
        MusiCNN("nonesuch")


def test_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(musicnn.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps musicnn==0\.1\.0"):
        MusiCNN()
