# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prestissimo import ops
from prestissimo.nn.oobleck import OobleckConfig, OobleckDecoder

SMALL = OobleckConfig(channels=8, multiples=(1, 2, 4), strides=(2, 4, 6), latent_channels=5)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_decoder(config: OobleckConfig = SMALL, kernels: str = "auto") -> OobleckDecoder:
    torch.manual_seed(7)
    decoder = OobleckDecoder(config, kernels).requires_grad_(False)
    for name, p in decoder.named_parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p, std=0.3 if "bias" not in name else 0.1)
    return decoder


def latents(frames: int, items: int = 1, config: OobleckConfig = SMALL) -> Tensor:
    return torch.randn(items, config.latent_channels, frames, generator=generator(frames))


def snake(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    a, b = (v.view(1, -1, 1).exp() for v in (alpha, beta))
    return x + (a * x).sin() ** 2 / (b + 1e-9)


def of_diffusers(state: dict[str, Tensor], z: Tensor, config: OobleckConfig) -> Tensor:
    """The decoder of diffusers in plain PyTorch, all of z at once, straight from a state dict with weight norm."""

    def weight(name: str) -> Tensor:
        g, v = state[f"decoder.{name}.weight_g"], state[f"decoder.{name}.weight_v"]
        return torch._weight_norm(v, g, 0)

    def bias(name: str) -> Tensor | None:
        return state.get(f"decoder.{name}.bias")

    def activated(x: Tensor, name: str) -> Tensor:
        return snake(x, state[f"decoder.{name}.alpha"], state[f"decoder.{name}.beta"])

    x = F.conv1d(z, weight("conv1"), bias("conv1"), padding=3)
    for i, stride in enumerate(reversed(config.strides)):
        name = f"block.{i}"
        x = activated(x, f"{name}.snake1")
        x = F.conv_transpose1d(x, weight(f"{name}.conv_t1"), bias(f"{name}.conv_t1"), stride, stride // 2)
        for j, d in enumerate(config.dilations, 1):
            unit = f"{name}.res_unit{j}"
            h = activated(x, f"{unit}.snake1")
            h = F.conv1d(h, weight(f"{unit}.conv1"), bias(f"{unit}.conv1"), padding=3 * d, dilation=d)
            h = activated(h, f"{unit}.snake2")
            x = x + F.conv1d(h, weight(f"{unit}.conv2"), bias(f"{unit}.conv2"))
    return F.conv1d(activated(x, "snake1"), weight("conv2"), None, padding=3)


def names(config: OobleckConfig, stable_audio: bool) -> Iterator[tuple[str, str]]:
    """(diffusers' name, the name asked for) of every layer."""
    from prestissimo.nn import oobleck

    other = oobleck._stable_audio_names if stable_audio else oobleck._diffusers_names
    for ours, theirs in zip(oobleck._diffusers_names(config), other(config), strict=True):
        yield from zip(ours, theirs, strict=True)


def state_of(decoder: OobleckDecoder, stable_audio: bool = False) -> dict[str, Tensor]:
    """As a checkpoint has it: weight norm with gains apart from the norms, snakes with three dimensions."""
    state = {}
    places = iter(names(decoder.config, stable_audio))
    prefix = "pretransform.model.decoder" if stable_audio else "decoder"
    for node in decoder.layers():
        for layer in node:
            (_, conv), (_, before) = next(places), next(places)
            w = layer.weight
            state[f"{prefix}.{conv}.weight_v"] = 3 * w
            state[f"{prefix}.{conv}.weight_g"] = w.flatten(1).norm(dim=1).view(-1, 1, 1)
            if layer.bias is not None:
                state[f"{prefix}.{conv}.bias"] = layer.bias
            if layer.alpha is not None:
                shape = (-1,) if stable_audio else (1, -1, 1)
                state[f"{prefix}.{before}.alpha"] = layer.alpha.view(shape)
                state[f"{prefix}.{before}.beta"] = layer.beta.view(shape)
    return state


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("stable_audio", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 13])
def test_checkpoints_decode_as_their_own_code_does(kernels: str, stable_audio: bool, frames: int) -> None:
    source = random_decoder()
    decoder = OobleckDecoder(SMALL, kernels).load_weights(state_of(source, stable_audio))
    z = latents(frames, 2)
    expected = of_diffusers(state_of(source), z, SMALL)
    assert expected.shape == (2, 2, frames * SMALL.hop)
    with torch.no_grad():
        torch.testing.assert_close(
            decoder.decode(z), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.parametrize("products", ["", "float32", "bfloat16", "int8"])
def test_tiles_equal_the_whole_bit_for_bit(products: str) -> None:
    if not ops.compiled():
        pytest.skip("the references' products round by the length of a tile")
    decoder = random_decoder()
    if products:
        decoder.pack(products)
    z = latents(37, 2)
    whole = decoder.decode(z, 37)
    assert whole.shape == (2, 2, 37 * SMALL.hop)
    assert whole.dtype == torch.float32
    for tile in (1, 2, 5, 16, 36, 64):
        assert torch.equal(decoder.decode(z, tile), whole), tile
    cuts = iter([1, 4, 2, 11, 1, 18])
    pieces = list(decoder.decode_stream(z.split([next(cuts) for _ in range(6)], 2)))
    assert torch.equal(torch.cat(pieces, 2), whole)


def test_threads_do_not_change_a_bit() -> None:
    decoder = random_decoder().pack("bfloat16")
    before, audio = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            audio.append(decoder.decode(latents(9), 4))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(audio[0], audio[1])
    assert torch.equal(audio[0], audio[2])


@pytest.mark.parametrize(("products", "decibels"), [("float32", 90), ("bfloat16", 30), ("int8", 25)])
def test_packing_keeps_the_audio(products: str, decibels: float) -> None:
    z = latents(16)
    exact = of_diffusers({k: v.double() for k, v in state_of(random_decoder()).items()}, z.double(), SMALL)
    with ops.strict_kernels(ops.compiled()):
        audio = random_decoder().pack(products).decode(z)
    assert 10 * torch.log10(exact.square().mean() / (audio - exact).square().mean()) > decibels


def test_gradients_are_those_of_the_plain_decoder() -> None:
    decoder = random_decoder()
    state, grads = state_of(decoder), []
    for decode in (lambda z: decoder.decode(z, 8), lambda z: of_diffusers(state, z, SMALL)):
        z = latents(8).requires_grad_()
        grads += torch.autograd.grad(decode(z).square().mean(), z)
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4 * float(grads[1].abs().max()))


def test_the_first_audio_comes_before_the_last_latents() -> None:
    """And a tile is done as soon as the few latents after it, which it depends on, are there."""
    decoder, given = random_decoder(), 0

    def arriving() -> Iterator[Tensor]:
        nonlocal given
        for z in latents(64).split(1, 2):
            given += 1
            yield z

    made = 0
    for piece in decoder.decode_stream(arriving()):
        made += piece.shape[2]
        assert given * SMALL.hop - made <= 16 * SMALL.hop
    assert made == 64 * SMALL.hop


_PEAK = """
import resource, torch
from prestissimo.nn.oobleck import OobleckConfig, OobleckDecoder
torch.set_num_threads(1)
with torch.inference_mode():
    decoder = OobleckDecoder(OobleckConfig(channels=16, multiples=(1, 2), strides=(8, 8), latent_channels=4)).pack()
    for frames in (320, 20 * 320):
        made = sum(p.shape[2] for p in decoder.decode_tiles(torch.randn(1, 4, frames), 64))
        assert made == 64 * frames
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_bounded_by_the_tile() -> None:
    """Twenty times as much sound, which in one piece would take 40 MB more, in the same memory."""
    run = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    short, long = map(int, run.stdout.split())
    assert long - short < 8 << 10  # kilobytes


def test_wrong_arguments_name_themselves() -> None:
    decoder = random_decoder()
    with pytest.raises(ValueError, match=r"strides must be even"):
        OobleckConfig(strides=(2, 4, 4, 8, 5))
    with pytest.raises(ValueError, match=r"strides must be as many"):
        OobleckConfig(strides=(2, 4))
    with pytest.raises(ValueError, match=r"channels must be positive"):
        OobleckConfig(channels=0)
    with pytest.raises(ValueError, match=r"tile must be positive"):
        decoder.decode(latents(3), 0)
    with pytest.raises(ValueError, match=r"latents must be \(B, 5, T\)"):
        decoder.decode(latents(3)[:, 1:])
    with pytest.raises(ValueError, match=r"products must be"):
        decoder.pack("int4")
    state = state_of(decoder)
    with pytest.raises(ValueError, match=r"decoder.conv2.weight must be \[2, 8, 7\], got \[2, 8, 6\]"):
        OobleckDecoder(SMALL).load_weights(
            {k: v[..., :6] if k == "decoder.conv2.weight_v" else v for k, v in state.items()}
        )
    del state["decoder.block.1.res_unit2.snake2.beta"]
    with pytest.raises(ValueError, match=r"no decoder.block.1.res_unit2.snake2.beta"):
        OobleckDecoder(SMALL).load_weights(state)
    with pytest.raises(ValueError, match="packed already"):
        decoder.pack().pack()


def test_public_sizes() -> None:
    """The parameters of the public decoders: 78.1 M and, at 48 kHz, 84.4 M, with weight norm's gains."""
    for config, millions, hop in ((OobleckConfig(), 78.1, 2048), (OobleckConfig.ace_step_1_5(), 84.4, 1920)):
        with torch.device("meta"):
            decoder = OobleckDecoder(config)
        assert config.hop == hop
        gains = sum(layer.weight.shape[0] for node in decoder.layers() for layer in node)
        assert (sum(p.numel() for p in decoder.parameters()) + gains) / 1e6 == pytest.approx(
            millions, abs=0.05
        )
