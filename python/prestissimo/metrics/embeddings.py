# SPDX-License-Identifier: Apache-2.0
"""What the judges make of a list of clips: embeddings for distances, probabilities for tags."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prestissimo import atomic
from prestissimo.metrics.musicnn import HOP, PATCH_FRAMES, SAMPLE_RATE, MusiCNN

Clip: TypeAlias = "Tensor | NDArray[np.float32]"
DEFAULT_NETWORKS = ("MTT_musicnn", "MSD_musicnn")
_CACHE_VERSION = 1


@dataclass(frozen=True)
class Judgement:
    """One network's view of n clips.

    Attributes:
        tags: the network's 50 tags.
        embeddings: n arrays (P, E) float32, one row per patch of 3 s.
        probabilities: n arrays (P, 50) float32.
    """

    tags: tuple[str, ...]
    embeddings: tuple[NDArray[np.float32], ...]
    probabilities: tuple[NDArray[np.float32], ...]

    def mean_embeddings(self) -> NDArray[np.float32]:
        """(n, E): one mean embedding per clip."""
        return np.stack([e.mean(axis=0) for e in self.embeddings])

    def patch_embeddings(self) -> NDArray[np.float32]:
        """(sum of P, E): every patch of every clip."""
        return np.concatenate(self.embeddings)

    def mean_probabilities(self) -> NDArray[np.float32]:
        """(n, 50): mean over the clip's patches."""
        return np.stack([p.mean(axis=0) for p in self.probabilities])

    def tag(self, tag: str) -> NDArray[np.float32]:
        """(n,) mean probability of one tag; raises ValueError where the network does not know it."""
        if tag not in self.tags:
            raise ValueError(f"tag must be one that the network knows, got {tag!r}")
        return self.mean_probabilities()[:, self.tags.index(tag)]

    def __len__(self) -> int:
        return len(self.embeddings)


def stereo_clip(clip: Clip, name: str = "clip") -> Tensor:
    """The clip as float32 (2, N) on the CPU; raises ValueError for another shape or for NaN."""
    x = torch.as_tensor(clip).detach().to("cpu", torch.float32)
    if x.ndim != 2 or x.shape[0] != 2 or x.shape[1] < 1:
        raise ValueError(f"{name} must be (2, N), got {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} holds NaN or infinite samples")
    return x


def mono_16k(clip: Clip, sample_rate: int = 44_100) -> Tensor:
    """(2, N) at ``sample_rate`` -> (M,) mono at 16 kHz, repeated up to one patch (2.976 s) where shorter."""
    import soxr

    mono = stereo_clip(clip).mean(dim=0).numpy()
    y = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    need = (PATCH_FRAMES - 1) * HOP
    if len(y) < need:  # musicnn's own training padded short songs so
        y = np.resize(y, need)
    return torch.from_numpy(np.ascontiguousarray(y, dtype=np.float32))


@lru_cache(maxsize=4)
def judge(name: str) -> MusiCNN:
    """The named network, loaded once."""
    return MusiCNN(name)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clip_digest(clip: Tensor, settings: str) -> str:
    """Name under which what was measured of a clip with these settings is kept: a hash of its samples."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{_CACHE_VERSION} {settings} {tuple(clip.shape)}".encode())
    digest.update(clip.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return stored["embeddings"], stored["probabilities"]
    except (
        OSError,
        KeyError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
    ):  # absent, or cut off by a full disk: embed again
        return None


def _store(path: Path, embeddings: NDArray[np.float32], probabilities: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=embeddings, probabilities=probabilities)
    atomic.write_bytes(path, buffer.getvalue(), overwrite=True)


def embed(
    clips: Iterable[Clip],
    networks: Sequence[str] = DEFAULT_NETWORKS,
    *,
    sample_rate: int = 44_100,
    patches: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> dict[str, Judgement]:
    """Embeddings and tags of every clip by every network.

    Args:
        clips: stereo clips (2, N), float, full scale 1; lengths may differ; read one at a time, so a
            generator that reads files keeps the memory small.
        networks: names from :data:`prestissimo.metrics.musicnn.NAMES`.
        sample_rate: of the clips, in Hz.
        patches: this many patches of 3 s spread evenly over each clip (4 on 5.94 s overlap by about half);
            None takes successive patches without overlap.
        cache: folder of ``.npz`` files keyed by the clip's samples, so that nothing is embedded twice.
        threads: torch threads while the networks run.
        progress: show a progress bar.

    Returns:
        A :class:`Judgement` per network, in the clips' order.

    Raises:
        ValueError: a clip is not (2, N) or holds NaN; there is no clip; an unknown network.
        ImportError: the networks' weights are not installed.
    """
    nets = {name: judge(name) for name in networks}
    found: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {name: [] for name in networks}
    folder = None if cache is None else Path(cache)
    with _threads(threads), torch.inference_mode():
        for index, clip in enumerate(tracked(clips, "Judging", progress)):
            x = stereo_clip(clip, f"clip {index}")
            key = clip_digest(x, f"{sample_rate} {patches}") if folder else ""
            mono = None
            for name, net in nets.items():
                path = folder / key[:2] / f"{key}.{name}.npz" if folder else None
                result = _load(path) if path else None
                if result is None:
                    mono = mono_16k(x, sample_rate)[None] if mono is None else mono
                    out = net(mono, patches=patches)
                    result = out.embeddings[0].numpy(), out.probabilities[0].numpy()
                    if path:
                        _store(path, *result)
                found[name].append(result)
    if not all(found.values()):
        raise ValueError("clips must hold at least one clip")
    return {
        name: Judgement(tuple(nets[name].tags), tuple(e for e, _ in pairs), tuple(p for _, p in pairs))
        for name, pairs in found.items()
    }


def tracked(clips: Iterable[Clip], description: str, progress: bool) -> Iterable[Clip]:
    """The clips, with a progress bar on standard error where one is wanted."""
    if not progress:
        return clips
    from rich.console import Console
    from rich.progress import track

    total = len(clips) if isinstance(clips, Sequence) else None
    return track(clips, description, total=total, transient=True, console=Console(stderr=True))
