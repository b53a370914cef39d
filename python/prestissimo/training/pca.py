# SPDX-License-Identifier: Apache-2.0
"""Principal components of log-mel patches, fitted in one pass, and the latents of a whole data set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prestissimo.data import FeatureStore, StoredTrack
from prestissimo.nn.codec import MelCodec, MelCodecConfig, patches_of

__all__ = ["PatchStatistics", "encode_store", "fit_pca", "patch_statistics", "read_latents"]

_CHUNK_PATCHES = 4096


@dataclass(frozen=True)
class PatchStatistics:
    """count, mean (D,) and covariance (D, D) of patches, float64."""

    count: int
    mean: Tensor
    covariance: Tensor


def patch_statistics(mels: Iterable[Tensor], config: MelCodecConfig) -> PatchStatistics:
    """Mean and covariance of the patches of log-mels (2, n_mels, F), each cut to whole patches.

    Products are taken in float32 about the mean of the first log-mel and summed in float64. Raises ValueError
    for fewer than two patches.
    """
    size = config.patch_size
    total = torch.zeros(size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    count, origin = 0, None
    for mel in mels:
        whole = mel[None, ..., : mel.shape[-1] // config.patch_frames * config.patch_frames]
        patches = patches_of(whole, config)[0]
        if origin is None:
            origin = patches.mean(0)
        for chunk in patches.split(_CHUNK_PATCHES):
            centred = chunk - origin
            total += centred.sum(0, dtype=torch.float64)
            products += centred.T @ centred
            count += len(centred)
    if origin is None or count < 2:
        raise ValueError(f"mels must hold at least two patches of {config.patch_frames} frames, got {count}")
    offset = total / count
    covariance = products / count - torch.outer(offset, offset)
    return PatchStatistics(count, origin.double() + offset, covariance)


def fit_pca(statistics: PatchStatistics, config: MelCodecConfig, whitening: float = 0.0) -> dict[str, Tensor]:
    """Buffers mean, components and scale of a `MelCodec`: the eigenvectors of the largest variances v.

    scale_d = c v_d^(-whitening / 2) with the one constant c that brings the mean square of all latents
    together to latent_std^2: whitening 0 keeps the metric of log-mels, 1 gives every component one deviation.
    The sign of a component is fixed by its largest entry being positive.
    """
    if not 0 <= whitening <= 1:
        raise ValueError(f"whitening must be in [0, 1], got {whitening}")
    values, vectors = torch.linalg.eigh(statistics.covariance)
    variance = values.flip(0)[: config.channels].clamp_min(1e-12)
    components = vectors.flip(1).T[: config.channels]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    relative = variance.pow(-whitening / 2)
    constant = config.latent_std / (relative.square() * variance).mean().sqrt()
    return {
        "mean": statistics.mean.float(),
        "components": components.float().contiguous(),
        "scale": (constant * relative).float(),
    }


@torch.no_grad()
def encode_store(codec: MelCodec, store: FeatureStore, folder: Path) -> int:
    """Append the latents of every track that folder/latents_index.json does not list yet.

    latents.f16 holds float16 (frames, channels), time-major, all tracks one after another; the index gives
    offset and length in latent frames per track id. The index is replaced after its data is on disk, so a
    killed run resumes. Returns the number of tracks added. Raises ValueError where the index names other
    constants than the codec's.
    """
    index_path, data_path = folder / "latents_index.json", folder / "latents.f16"
    constants = {
        "channels": codec.config.channels,
        "hop": codec.config.hop,
        "sample_rate": codec.config.sample_rate,
        "latent_std": codec.config.latent_std,
        "scale": [float(s) for s in codec.scale],
    }
    index: dict[str, Any] = {"format": 1, **constants, "tracks": []}
    if index_path.exists():
        index = json.loads(index_path.read_text(encoding="utf-8"))
        if any(index.get(name) != value for name, value in constants.items()):
            raise ValueError(
                f"{index_path.name} was written with another codec: name it (--codec) or delete that file to start anew"
            )
    done = {entry["id"] for entry in index["tracks"]}
    frames = sum(entry["frames"] for entry in index["tracks"])
    new: list[StoredTrack] = [track for track in store if track.id not in done]
    with data_path.open("r+b" if data_path.exists() else "w+b") as file:
        file.truncate(frames * codec.config.channels * 2)
        file.seek(0, 2)
        for track in new:
            latents = codec.encode_log_mel(store.log_mel(track)[None])[0].T
            file.write(latents.to(torch.float16).numpy().astype("<f2").tobytes())
            entry = {"id": track.id, "split": track.split, "offset": frames, "frames": len(latents)}
            index["tracks"].append(entry)
            frames += len(latents)
    partial = index_path.with_suffix(".partial")
    partial.write_text(json.dumps(index), encoding="utf-8")
    partial.replace(index_path)
    return len(new)


def read_latents(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The memory-mapped latents (frames, channels) float16 and the index that `encode_store` wrote."""
    index = json.loads((folder / "latents_index.json").read_text(encoding="utf-8"))
    frames = sum(entry["frames"] for entry in index["tracks"])
    return np.memmap(folder / "latents.f16", "<f2", "r", shape=(frames, index["channels"])), index
