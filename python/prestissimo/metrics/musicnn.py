# SPDX-License-Identifier: Apache-2.0
"""musicnn's four music taggers as frozen torch modules, differentiable to the waveform.

MTT networks were trained on MagnaTagATune, MSD networks on the Million Song Dataset; each gives 50 tags and
an embedding per patch of 3 s. They hear 16 kHz mono: nothing above 8 kHz and no side channel reaches them.

Source: Pons and Serra, "musicnn: Pre-trained convolutional neural networks for music audio tagging"
(ISMIR 2019 late-breaking demo); weights from the ISC-licensed package ``musicnn`` 0.1.0.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prestissimo.metrics.tf_checkpoint import read_tf_checkpoint
from prestissimo.nn.stft import mel_filters

SAMPLE_RATE = 16_000
FFT_SIZE, HOP, MELS = 512, 256, 96
PATCH_FRAMES = 187
NAMES = ("MTT_musicnn", "MSD_musicnn", "MTT_vgg", "MSD_vgg")
_BATCH_NORM_EPS = 1e-3  # TensorFlow's default


class TagOutput(NamedTuple):
    """What a tagger says of each patch."""

    probabilities: Tensor  #: (B, P, 50), sigmoid of the logits
    embeddings: Tensor  #: (B, P, E), the layer before the logits: E = 200 for musicnn, 256 for vgg


def _package() -> Path:
    spec = importlib.util.find_spec("musicnn")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "the judges' weights are missing: pip install --no-deps musicnn==0.1.0 "
            "(--no-deps, because the package pins an old TensorFlow that is not needed here)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _tags(name: str) -> list[str]:
    from musicnn import configuration  # pure constants: imports no TensorFlow

    return list(configuration.MTT_LABELS if name.startswith("MTT") else configuration.MSD_LABELS)


class _Weights:
    """A checkpoint's arrays handed out as torch layers."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays

    def __call__(self, name: str) -> Tensor:
        if name not in self._arrays:
            raise ValueError(f"checkpoint has no tensor {name!r}")
        return torch.tensor(self._arrays[name], dtype=torch.float32)

    def conv(self, name: str) -> nn.Conv2d:
        kernel = self(f"{name}/kernel").permute(3, 2, 0, 1).contiguous()  # HWIO -> OIHW
        layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], (kernel.shape[2], kernel.shape[3]))
        layer.weight.data, layer.bias.data = kernel, self(f"{name}/bias")  # type: ignore[union-attr]
        return layer

    def conv_over_time(self, name: str) -> nn.Conv1d:
        """A kernel that spans every feature of its input: (frames, features, 1, out) in the checkpoint."""
        kernel = self(f"{name}/kernel").squeeze(2).permute(2, 1, 0).contiguous()
        out, features, frames = kernel.shape
        layer = nn.Conv1d(features, out, frames, padding=frames // 2)
        layer.weight.data, layer.bias.data = kernel, self(f"{name}/bias")  # type: ignore[union-attr]
        return layer

    def dense(self, name: str) -> nn.Linear:
        kernel = self(f"{name}/kernel").T.contiguous()
        layer = nn.Linear(kernel.shape[1], kernel.shape[0])
        layer.weight.data, layer.bias.data = kernel, self(f"{name}/bias")
        return layer

    def affine(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch normalisation with its moving statistics, as scale and shift."""
        name = f"batch_normalization_{index}" if index else "batch_normalization"
        scale = self(f"{name}/gamma") / torch.sqrt(self(f"{name}/moving_variance") + _BATCH_NORM_EPS)
        return scale, self(f"{name}/beta") - self(f"{name}/moving_mean") * scale

    def norm(self, index: int) -> ChannelAffine:
        return ChannelAffine(*self.affine(index))


class ChannelAffine(nn.Module):
    """Batch normalisation with frozen statistics: x * scale + shift along dimension 1."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x.ndim - 2)
        return x * self.scale.view(shape) + self.shift.view(shape)


class PooledReluAffine(ChannelAffine):
    """max over the last dimension of relu(y) * scale + shift: (B, C, T, W) -> (B, C, T).

    Both maps are monotone, so the maximum is taken first and the large tensor is read once.
    """

    def forward(self, y: Tensor) -> Tensor:
        best = y.amax(dim=3)
        if bool((self.scale < 0).any()):
            best = torch.where(self.scale.view(-1, 1) < 0, y.amin(dim=3), best)
        return super().forward(F.relu(best))


class _Musicnn(nn.Module):
    """Timbral (7 frames x 38 or 67 mels) and temporal (32 to 128 frames x 1) filters, max-pooled over
    frequency; three residual convolutions over time; mean and max over time; a dense layer of 200."""

    width = 200
    _front_frames = (7, 7, 128, 64, 32)

    def __init__(self, weights: _Weights) -> None:
        super().__init__()
        names = ["conv2d", *(f"conv2d_{i}" for i in range(1, 8))]
        self.input_norm = weights.norm(0)
        self.front = nn.ModuleList(weights.conv(name) for name in names[:5])
        self.front_norm = nn.ModuleList(PooledReluAffine(*weights.affine(i)) for i in range(1, 6))
        self.middle = nn.ModuleList(weights.conv_over_time(name) for name in names[5:])
        self.middle_norm = nn.ModuleList(weights.norm(i) for i in range(6, 9))
        self.pool_norm, self.hidden_norm = weights.norm(9), weights.norm(10)
        self.hidden, self.logits = weights.dense("dense"), weights.dense("dense_1")

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        x = self.input_norm(patches[:, None])
        features = []
        for conv, norm, k in zip(self.front, self.front_norm, self._front_frames, strict=True):
            y = conv(F.pad(x, (0, 0, (k - 1) // 2, k // 2)))
            features.append(norm(y))
        h = torch.cat(features, dim=1)  # (B, 561, T)
        layers = [h]
        for i, (conv, norm) in enumerate(zip(self.middle, self.middle_norm, strict=True)):
            y = norm(F.relu(conv(h)))
            h = y + h if i else y
            layers.append(h)
        m = torch.cat(layers, dim=1)  # (B, 753, T)
        pooled = torch.stack((m.amax(dim=2), m.mean(dim=2)), dim=2).flatten(1)
        embedding = self.hidden_norm(F.relu(self.hidden(self.pool_norm(pooled))))
        return self.logits(embedding), embedding


class _Vgg(nn.Module):
    """Five 3 x 3 convolutions with max pooling; the flattened last pool is the embedding."""

    width = 256
    _pools = (((4, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4)))

    def __init__(self, weights: _Weights) -> None:
        super().__init__()
        self.input_norm = weights.norm(0)
        self.convs = nn.ModuleList(weights.conv(f"{i}CNN") for i in range(1, 6))
        self.norms = nn.ModuleList(weights.norm(i) for i in range(1, 6))
        self.logits = weights.dense("dense")

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        x = self.input_norm(patches[:, None])
        for conv, norm, (size, stride) in zip(self.convs, self.norms, self._pools, strict=True):
            x = F.max_pool2d(norm(F.relu(conv(F.pad(x, (1, 1, 1, 1))))), size, stride)
        embedding = x.permute(0, 2, 3, 1).flatten(1)  # TensorFlow flattens time, frequency, channel
        return self.logits(embedding), embedding


class MusiCNN(nn.Module):
    """One of musicnn's taggers: audio -> tag probabilities and embeddings of 3-second patches.

    Args:
        name: ``MTT_musicnn``, ``MSD_musicnn``, ``MTT_vgg`` or ``MSD_vgg``.

    Raises:
        ValueError: unknown name, or weights that are not the ones expected.
        ImportError: the package ``musicnn`` is not installed.

    >>> net = MusiCNN("MTT_musicnn")                                            # doctest: +SKIP
    >>> out = net(audio)              # (B, N) float32 at 16 kHz                # doctest: +SKIP
    >>> dict(zip(net.tags, out.probabilities[0].mean(0).tolist()))["piano"]     # doctest: +SKIP
    """

    filters: Tensor
    window: Tensor

    def __init__(self, name: str = "MTT_musicnn") -> None:
        super().__init__()
        if name not in NAMES:
            raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
        self.name = name
        folder = _package() / name
        weights = _Weights(read_tf_checkpoint(folder / ".index", folder / ".data-00000-of-00001"))
        self.tags: list[str] = _tags(name)
        self.net: _Musicnn | _Vgg = _Vgg(weights) if name.endswith("vgg") else _Musicnn(weights)
        self.embedding_width = self.net.width
        self.register_buffer("filters", torch.tensor(mel_filters(SAMPLE_RATE, FFT_SIZE, MELS)))
        self.register_buffer("window", torch.hann_window(FFT_SIZE))
        self.eval().requires_grad_(False)

    def logmel(self, audio: Tensor) -> Tensor:
        """log10(1 + 10^4 * mel(|STFT|^2)): audio (B, N) at 16 kHz -> (B, F, 96), F = 1 + N // 256."""
        if audio.ndim != 2:
            raise ValueError(f"audio must be (B, N) mono at {SAMPLE_RATE} Hz, got {tuple(audio.shape)}")
        spectrum = torch.stft(
            audio, FFT_SIZE, HOP, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        power = spectrum.real**2 + spectrum.imag**2  # differentiable at zero, unlike abs()
        return torch.log10(1 + 1e4 * (self.filters @ power)).transpose(1, 2)

    def forward(self, audio: Tensor, hop: int = PATCH_FRAMES, patches: int | None = None) -> TagOutput:
        """Tags and embeddings of each patch of 187 frames (2.99 s).

        Args:
            audio: (B, N) float32, mono, 16 kHz, full scale 1; at least 47,616 samples.
            hop: frames (of 16 ms) between the starts of successive patches.
            patches: take this many patches, spread evenly from the first to the last frame; ``hop`` is
                then unused.

        Returns:
            :class:`TagOutput` with probabilities (B, P, 50) and embeddings (B, P, E).

        Raises:
            ValueError: ``audio`` is not (B, N) or is shorter than a patch; ``hop`` or ``patches`` below 1.
        """
        if hop < 1:
            raise ValueError(f"hop must be at least 1, got {hop}")
        if patches is not None and patches < 1:
            raise ValueError(f"patches must be at least 1, got {patches}")
        mel = self.logmel(audio)
        frames = mel.shape[1]
        if frames < PATCH_FRAMES:
            raise ValueError(
                f"audio must have at least {(PATCH_FRAMES - 1) * HOP} samples, got {audio.shape[1]}"
            )
        last = frames - PATCH_FRAMES
        if patches is None:
            starts = list(range(0, last + 1, hop))
        else:
            starts = [round(i * last / max(patches - 1, 1)) for i in range(patches)]
        x = torch.stack([mel[:, s : s + PATCH_FRAMES] for s in starts], dim=1)
        logits, embeddings = self.net(x.flatten(0, 1))
        shape = (audio.shape[0], len(starts), -1)
        return TagOutput(torch.sigmoid(logits).view(shape), embeddings.reshape(shape))
