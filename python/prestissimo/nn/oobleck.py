# SPDX-License-Identifier: Apache-2.0
"""The decoder of Oobleck, the autoencoder of Stable Audio and ACE-Step: latents to sound, in tiles of any length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prestissimo import ops
from prestissimo.nn.layers import Kernels
from prestissimo.ops.conv1d import reference as conv1d_reference
from prestissimo.ops.conv_transpose1d import reference as conv_transpose1d_reference

__all__ = ["OobleckConfig", "OobleckDecoder"]

_KERNEL = 7  # of the first and last convolution and of every residual unit


@dataclass(frozen=True)
class OobleckConfig:
    """Size of an Oobleck autoencoder, in the encoder's order: the decoder goes from the last stage to the first.

    channels times `multiples` are the widths of the stages, `strides` the factors between them, dilations those of a
    stage's residual units. The default is that of Stable Audio Open 1.0 and Small and of TangoFlux.
    """

    channels: int = 128
    multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    strides: tuple[int, ...] = (2, 4, 4, 8, 8)
    dilations: tuple[int, ...] = (1, 3, 9)
    latent_channels: int = 64
    audio_channels: int = 2
    sample_rate: int = 44100

    def __post_init__(self) -> None:
        if len(self.multiples) != len(self.strides) or not self.strides:
            raise ValueError(f"strides must be as many as multiples, got {self.strides} and {self.multiples}")
        if any(s < 2 or s % 2 for s in self.strides):
            raise ValueError(f"strides must be even, got {self.strides}")
        for name in ("channels", "latent_channels", "audio_channels", "sample_rate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @classmethod
    def ace_step_1_5(cls) -> OobleckConfig:
        """The 48 kHz autoencoder of ACE-Step 1.5."""
        return cls(strides=(2, 4, 4, 6, 10), sample_rate=48000)

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.strides)

    @property
    def stages(self) -> list[tuple[int, int, int]]:
        """(channels, outputs, stride) of the decoder's stages, in its order."""
        widths = [self.channels * m for m in (1, *self.multiples)]
        return [(widths[i + 1], widths[i], s) for i, s in reversed(list(enumerate(self.strides)))]


class Layer(nn.Module):
    """A convolution, dense or packed, transposed where it has a stride, of a snake of its input or of the input."""

    packed: Any = None

    def __init__(
        self,
        channels: int,
        outputs: int,
        kernel: int,
        dilation: int = 1,
        stride: int = 0,
        snake: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.dilation, self.stride = dilation, stride
        shape = (channels, outputs, kernel) if stride else (outputs, channels, kernel)
        bound = (channels * kernel / max(stride, 1)) ** -0.5
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.alpha = nn.Parameter(torch.zeros(channels)) if snake else None
        self.beta = nn.Parameter(torch.zeros(channels)) if snake else None
        self.context = (
            1 if stride else dilation * (kernel // 2)
        )  # steps of input on a side; transposed: before only

    @property
    def held(self) -> int:
        """Steps of its input that a layer keeps for the tile that follows."""
        return 1 if self.stride else 2 * self.context

    def pack(self, products: str, dtype: torch.dtype) -> None:
        if self.weight is None:
            raise ValueError("the weights are packed already")
        weight, self.weight = self.weight.detach(), None
        if self.stride:
            self.packed = ops.pack_conv_transpose1d(weight, self.stride, products)
        else:
            self.packed = ops.pack_conv1d(weight, products)
        self.to(dtype)

    def forward(self, x: Tensor, by_reference: bool, residual: Tensor | None = None, lead: int = 0) -> Tensor:
        """The steps that meet nothing beyond the ends of x, `lead` steps of zeros before them."""
        weight = self.weight if self.packed is None else self.packed
        if self.stride:
            up = conv_transpose1d_reference if by_reference else ops.conv_transpose1d
            snake: dict[str, Any] = {"alpha": self.alpha, "beta": self.beta, "lead": lead}
            return up(x, weight, self.bias, self.stride, self.stride, **snake)
        conv = conv1d_reference if by_reference else ops.conv1d
        options: dict[str, Any] = {"alpha": self.alpha, "beta": self.beta, "residual": residual, "lead": lead}
        return conv(x, weight, self.bias, 0, self.dilation, **options)


class OobleckDecoder(Kernels):
    """latents (B, latent_channels, T) to audio (B, audio_channels, T · hop) of `config.sample_rate`.

    A convolution of 7 steps; for each stage a transposed convolution and residual units x + W2 s(W1 s(x)), W1 a dilated
    convolution of 7 steps; a last convolution; a snake before all but the first. No step depends on how latents are cut
    into tiles: every layer keeps the few steps of its input that the next tile's meet again, so that the tiles' audio
    is that of the whole, bit for bit, and nothing but the tile bounds the memory.

    Source: Stable Audio Open (Evans et al., arXiv 2407.14358), section 3.1.
    """

    def __init__(self, config: OobleckConfig | None = None, kernels: str = "auto") -> None:
        super().__init__(kernels)
        self.config = config = config or OobleckConfig()
        # what is one element here keeps its own input; a residual unit is two layers
        self.nodes = nn.ModuleList()
        stages = config.stages
        self._add(Layer(config.latent_channels, stages[0][0], _KERNEL, snake=False))
        for channels, outputs, stride in stages:
            self._add(Layer(channels, outputs, 2 * stride, stride=stride))
            for d in config.dilations:
                self._add(Layer(outputs, outputs, _KERNEL, d), Layer(outputs, outputs, 1))
        self._add(Layer(stages[-1][1], config.audio_channels, _KERNEL, bias=False))

    def _add(self, *layers: Layer) -> None:
        self.nodes.append(nn.ModuleList(layers))

    def layers(self) -> list[tuple[Layer, ...]]:
        """The nodes' layers, in their order."""
        return [tuple(node) for node in self.nodes]  # type: ignore[arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        bias = self.layers()[0][0].bias
        assert bias is not None
        return bias.dtype

    def pack(self, products: str = "bfloat16") -> OobleckDecoder:
        """Lay out the weights for products of "float32", "bfloat16" or "int8", in place of the dense ones.

        Activations become bfloat16 but for float32. int8 leaves the last layer, whose two outputs are the audio, and
        the first, whose input is not a snake's, to bfloat16. Raises ValueError for other products or when packed.
        """
        if products not in ("float32", "bfloat16", "int8"):
            raise ValueError(f'products must be "float32", "bfloat16" or "int8", got {products!r}')
        dtype = torch.float32 if products == "float32" else torch.bfloat16
        nodes = self.layers()
        for i, node in enumerate(nodes):
            outer = i in (0, len(nodes) - 1)
            for layer in node:
                layer.pack("bfloat16" if outer and products == "int8" else products, dtype)
        return self

    def decode(self, latents: Tensor, tile: int = 16) -> Tensor:
        """Latents (B, latent_channels, T) to audio (B, audio_channels, T · hop), float32, the same for any `tile`."""
        return torch.cat(list(self.decode_tiles(latents, tile)), 2)

    forward = decode

    def decode_tiles(self, latents: Tensor, tile: int = 16) -> Iterator[Tensor]:
        """Successive pieces of the audio of `decode`, one for about every `tile` latent frames."""
        if tile < 1:
            raise ValueError(f"tile must be positive, got {tile}")
        return self.decode_stream(latents.split(tile, 2))

    def decode_stream(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """Audio as soon as it is known for latents (B, latent_channels, any number) that come one after another.

        Together the pieces are as long as all latents; the first few latents give none, their end the rest.
        """
        stream = _Stream(self)
        for z in latents:
            if z.ndim != 3 or z.shape[1] != self.config.latent_channels or z.shape[2] < 1:
                expected = f"(B, {self.config.latent_channels}, T) with T >= 1"
                raise ValueError(f"latents must be {expected}, got {tuple(z.shape)}")
            if (piece := stream.advance(z)) is not None:
                yield piece.float()
        if stream.tails and (piece := stream.advance(None)) is not None:
            yield piece.float()

    def load_weights(self, state: Mapping[str, Tensor]) -> OobleckDecoder:
        """Take the decoder's weights from a state dict of diffusers or stable-audio-tools, weight norm folded.

        Raises ValueError naming what is missing or has another shape.
        """
        of_decoder = {k.rpartition("decoder.")[2]: v for k, v in state.items() if "decoder." in k}
        weights = _without_weight_norm(of_decoder)
        names = _diffusers_names if "conv1.weight" in weights else _stable_audio_names
        layers = (layer for node in self.layers() for layer in node)
        with torch.no_grad():
            for layer, (conv, snake) in zip(layers, names(self.config), strict=True):
                for name, parameter in layer.named_parameters():
                    key = f"{snake if name in ('alpha', 'beta') else conv}.{name}"
                    if key not in weights:
                        raise ValueError(f"state has no decoder.{key}")
                    value = weights[key].reshape(-1) if parameter.ndim == 1 else weights[key]
                    if value.shape != parameter.shape:
                        expected = list(parameter.shape)
                        raise ValueError(f"decoder.{key} must be {expected}, got {list(weights[key].shape)}")
                    parameter.copy_(value)
        return self


class _Stream:
    """What the layers keep between the tiles of one decode."""

    def __init__(self, decoder: OobleckDecoder) -> None:
        self.nodes = decoder.layers()
        self.by_reference, self.dtype = decoder.by_reference, decoder.dtype
        self.tails: list[Tensor] = []
        self.begun = [False] * len(self.nodes)

    def advance(self, latents: Tensor | None) -> Tensor | None:
        """The audio that these latents complete, or, after the last, what their end does."""
        if latents is None:
            x = None
        else:
            for layer, *_ in self.nodes[len(self.tails) :]:
                channels = layer.alpha.shape[0] if layer.alpha is not None else latents.shape[1]
                zeros = latents.new_zeros(latents.shape[0], layer.context, channels, dtype=self.dtype)
                self.tails.append(zeros.transpose(1, 2))
            x = torch.cat([self.tails[0], latents.to(self.dtype)], 2)
        for i in range(len(self.nodes)):
            x = self._node(i, x, latents is None)
        return x

    def _node(self, i: int, x: Tensor | None, last: bool) -> Tensor | None:
        """`x` begins with room for what the node has kept; so does the result for the next node."""
        first, *second = self.nodes[i]
        tail, context = self.tails[i], first.context
        if x is None:
            x = tail
        elif x.requires_grad:
            x = torch.cat([tail, x[:, :, tail.shape[2] :]], 2)
        else:
            x[:, :, : tail.shape[2]] = tail
        if last:
            x = torch.cat([x, x.new_zeros(*x.shape[:2], context)], 2)
        steps = x.shape[2] - first.held
        lead = self.tails[i + 1].shape[2] if i + 1 < len(self.tails) else 0
        if steps < 1:
            self.tails[i] = x
            return None
        # a copy in the layout of x: a view would keep the whole tile
        self.tails[i] = x[:, :, steps:].transpose(1, 2).clone().transpose(1, 2)
        if second:
            h = first(x, self.by_reference)
            return second[0](h, self.by_reference, x[:, :, context : context + steps], lead)
        y = first(x, self.by_reference, lead=lead)
        if first.stride:  # the first and the last half a stride lie beyond the ends of the latents
            half = first.stride // 2
            y = y[:, :, 0 if self.begun[i] else half : y.shape[2] - (half if last else 0)]
            self.begun[i] = True
        return y


def _without_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """weight = g · v / |v|, norms over all but the first dimension, where a state has g and v."""
    out: dict[str, Tensor] = {}
    for name, v in state.items():
        for of_g, of_v in (
            ("weight_g", "weight_v"),
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ):
            if name.endswith(of_v):
                stem = name[: -len(of_v)]
                norm = v.float().flatten(1).norm(dim=1).view(-1, 1, 1)
                out[f"{stem}weight"] = v.float() * (state[stem + of_g].float() / norm)
                break
            if name.endswith(of_g):
                break
        else:
            out[name] = v
    return out


def _diffusers_names(config: OobleckConfig) -> Iterator[tuple[str, str]]:
    """(convolution, snake before it) of the layers in their order."""
    yield "conv1", ""
    for i in range(len(config.strides)):
        yield f"block.{i}.conv_t1", f"block.{i}.snake1"
        for j in range(1, len(config.dilations) + 1):
            unit = f"block.{i}.res_unit{j}"
            yield f"{unit}.conv1", f"{unit}.snake1"
            yield f"{unit}.conv2", f"{unit}.snake2"
    yield "conv2", "snake1"


def _stable_audio_names(config: OobleckConfig) -> Iterator[tuple[str, str]]:
    yield "layers.0", ""
    stages = len(config.strides)
    for i in range(1, stages + 1):
        yield f"layers.{i}.layers.1", f"layers.{i}.layers.0"
        for j in range(2, len(config.dilations) + 2):
            unit = f"layers.{i}.layers.{j}.layers"
            yield f"{unit}.1", f"{unit}.0"
            yield f"{unit}.3", f"{unit}.2"
    yield f"layers.{stages + 2}", f"layers.{stages + 1}"
