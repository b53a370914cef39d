# SPDX-License-Identifier: Apache-2.0
"""Weights on disk: safetensors, matrices optionally in int8 with one scale per output channel.

A quantised tensor `name` is stored as `name.int8` and `name.scale`; name = int8 · scale. The metadata holds
the version of this format, the configuration as JSON, and the SHA-256 of the tensors, checked on reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prestissimo.atomic import write_bytes

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "load_into",
    "quantize_channels",
    "read_config",
    "read_sha256",
    "save_checkpoint",
]

FORMAT = "prestissimo 1"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, the configuration they were saved with, and the SHA-256 of what the file holds."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    sha256: str


def quantize_channels(weight: Tensor, axis: int = 0) -> tuple[Tensor, Tensor]:
    """q = round(w / scale) with scale = max|w| / 127 per channel of `axis`: int8 and float32, w ≈ q · scale.

    scale has size 1 in every other dimension. Symmetric: −128 does not occur. Raises ValueError for weights
    that are not finite, for they have no scale.
    """
    w = weight.detach().float()
    if not torch.isfinite(w).all():
        raise ValueError("weight must be finite to be quantised")
    others = [d for d in range(w.ndim) if d != axis % w.ndim]
    scale = w.abs().amax(dim=others, keepdim=True) / 127
    q = (w / torch.where(scale == 0, 1, scale)).round().clamp(-127, 127)
    return q.to(torch.int8), scale


def matrices(name: str, tensor: Tensor) -> int | None:
    """The default choice of what int8 is for: the rows of floating tensors of two or more dimensions."""
    return 0 if tensor.ndim >= 2 and tensor.is_floating_point() and tensor.numel() >= 4096 else None


def save_checkpoint(
    path: str | Path,
    tensors: Mapping[str, Tensor] | nn.Module,
    config: Mapping[str, Any] | None = None,
    *,
    int8: bool | Callable[[str, Tensor], int | None] = False,
) -> str:
    """Write tensors (or a module's state) and configuration to `path`, whole or not at all; the SHA-256.

    int8: True quantises the rows of every floating tensor of at least 4096 numbers in 2 or more dimensions; a
    function of name and tensor gives the channel axis, None to store as it is.
    """
    choose = (matrices if int8 else lambda name, tensor: None) if isinstance(int8, bool) else int8
    stored: dict[str, Tensor] = {}
    for name, tensor in (tensors.state_dict() if isinstance(tensors, nn.Module) else tensors).items():
        axis = choose(name, tensor)
        if axis is None:
            stored[name] = tensor.detach().cpu().contiguous().clone()
        else:
            q, scale = quantize_channels(tensor.cpu(), axis)
            stored[f"{name}.int8"], stored[f"{name}.scale"] = q.contiguous(), scale
    sha256 = _digest(stored)
    metadata = {"format": FORMAT, "config": json.dumps(dict(config or {})), "sha256": sha256}
    write_bytes(path, _serialised(stored, metadata), overwrite=True)
    return sha256


def load_checkpoint(
    path: str | Path,
    expected: Mapping[str, Collection[int]] | None = None,
    *,
    optional: Iterable[str] = (),
    keep_int8: Iterable[str] = (),
) -> Checkpoint:
    """Read what `save_checkpoint` wrote, dequantised to float32.

    expected: shape of every tensor that must be there; nothing else may be (None: whatever the file has).
    optional: prefixes of names that may be missing. keep_int8: names that stay `name.int8` and `name.scale`.
    Shapes are checked on the header, before any tensor is read. Raises FileNotFoundError, or ValueError that
    names the file and the first tensors that are wrong.
    """
    path = Path(path)
    with _opened(path) as (file, metadata):
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        quantised = _quantised(path, shapes)
        if expected is not None:
            _check_names(path, _logical(shapes, quantised), expected, tuple(optional))
        stored = {name: file.get_tensor(name) for name in shapes}
    sha256 = _digest(stored)
    if metadata.get("sha256") != sha256:
        raise ValueError(f"{path}: the tensors do not have the recorded SHA-256: the file is damaged")
    kept = frozenset(keep_int8)
    for name in quantised:
        q, scale = stored[f"{name}.int8"], stored[f"{name}.scale"]
        if q.dtype != torch.int8 or scale.dtype != torch.float32 or not torch.isfinite(scale).all():
            raise ValueError(f"{path}: {name} must be int8 with finite float32 scales")
        if name not in kept:
            stored[name] = q * scale
            del stored[f"{name}.int8"], stored[f"{name}.scale"]
    return Checkpoint(stored, _config(path, metadata.get("config", "{}")), sha256)


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration a checkpoint was saved with, from the header alone. Raises as `load_checkpoint`."""
    with _opened(Path(path)) as (_, metadata):
        return _config(Path(path), metadata.get("config", "{}"))


def read_sha256(path: str | Path) -> str:
    """The SHA-256 that a checkpoint's metadata claim for its tensors; `load_checkpoint` verifies it."""
    with _opened(Path(path)) as (_, metadata):
        return metadata.get("sha256", "")


def load_into(module: nn.Module, path: str | Path, *, optional: Iterable[str] = ()) -> Checkpoint:
    """Load a checkpoint's tensors into a module of exactly those names and shapes.

    optional: prefixes of names that keep the module's values where the file lacks them, such as a condition
    added after training. A buffer of type int8 called `name.int8` takes the stored integers. A module on the
    meta device gets its tensors here, so that nothing of its size is allocated before the file has shown that
    it holds as much; nothing is optional then.
    """
    state = module.state_dict()
    on_meta = any(tensor.is_meta for tensor in state.values())
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    kept = _quantised(Path(path), shapes)
    optional = () if on_meta else tuple(optional)
    checkpoint = load_checkpoint(path, _logical(shapes, kept), optional=optional, keep_int8=kept)
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise ValueError(f"{path}: {name} must be {state[name].dtype}, got {tensor.dtype}")
    tensors = {name: tensor.to(state[name].dtype) for name, tensor in checkpoint.tensors.items()}
    module.load_state_dict({**state, **tensors}, assign=on_meta)
    return checkpoint


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """The file and its metadata; what its reader raises in the block becomes a ValueError with the path."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path}: format must be {FORMAT!r}, got {metadata.get('format')!r}")
            yield file, metadata
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def _quantised(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Names that are stored as int8 and scale; both must be there and fit."""
    names = {name.removesuffix(".int8") for name in shapes if name.endswith(".int8")}
    for name in names:
        q, scale = shapes[f"{name}.int8"], shapes.get(f"{name}.scale")
        fits = scale is not None and len(scale) == len(q)
        if scale is None or not fits or any(s not in (1, n) for s, n in zip(scale, q, strict=True)):
            got = "nothing" if scale is None else list(scale)
            raise ValueError(f"{path}: {name}.scale must broadcast to {list(q)}, got {got}")
        if name in shapes:
            raise ValueError(f"{path}: {name} must be stored once, as it is or as int8")
    return names


def _logical(shapes: Mapping[str, tuple[int, ...]], quantised: set[str]) -> dict[str, tuple[int, ...]]:
    parts = {f"{name}{part}" for name in quantised for part in (".int8", ".scale")}
    plain = {name: shape for name, shape in shapes.items() if name not in parts}
    return plain | {name: shapes[f"{name}.int8"] for name in quantised}


def _check_names(
    path: Path,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, Collection[int]],
    optional: tuple[str, ...],
) -> None:
    def some(names: Iterable[str]) -> str:
        names = sorted(names)
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

    missing = [name for name in expected if name not in found and not name.startswith(optional)]
    if missing:
        raise ValueError(f"{path}: these tensors are missing: {some(missing)}")
    unexpected = [name for name in found if name not in expected]
    if unexpected:
        raise ValueError(f"{path}: these tensors belong to no part of the model: {some(unexpected)}")
    for name, shape in found.items():
        if shape != tuple(expected[name]):
            raise ValueError(f"{path}: {name} must be {list(expected[name])}, got {list(shape)}")


def _serialised(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file, the same bytes for the same content: the library writes metadata in random order."""
    data = save(tensors, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps({**json.loads(data[8:end]), "__metadata__": metadata}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors start at a multiple of 8
    return len(header).to_bytes(8, "little") + header + data[end:]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config(path: Path, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: the configuration in the metadata is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: the configuration in the metadata must be an object, got {config!r}")
    return config
