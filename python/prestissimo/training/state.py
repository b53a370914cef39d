# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints: weights, their average, AdamW's moments and the step, in one safetensors file.

No pickle. Batches are functions of (seed, step), so the step is all that a resumed run needs to see the same data.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .ema import Ema

log = logging.getLogger("prestissimo")

FORMAT = 1
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    path: Path, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write everything that a run needs to go on; the file at `path` is whole at every moment.

    `progress` is any JSON: the step, hours so far, the configuration. Raises OSError.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.model.state_dict().items()}
    steps = {}
    for name, p in model.named_parameters():
        moments = optimizer.state.get(p)
        if moments:
            steps[name] = float(moments["step"])
            tensors |= {f"{m}.{name}": moments[m] for m in _MOMENTS}
    metadata = {"format": str(FORMAT), "progress": json.dumps(progress), "steps": json.dumps(steps)}
    partial = path.with_suffix(".partial")  # one name, so that a killed run leaves at most one of them
    try:
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, partial, metadata)
    except SafetensorError as e:
        partial.unlink(missing_ok=True)
        raise OSError(errno.EIO, f"the checkpoint could not be written ({e})", str(path)) from e
    with partial.open("rb") as f:
        os.fsync(f.fileno())
    partial.replace(path)


def load_state(
    path: Path, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Restore what `save_state` wrote and return its `progress`.

    Without `optimizer` the moments stay behind. Raises FileNotFoundError, or ValueError for a file that is not such
    a checkpoint or does not fit the model.
    """
    tensors, metadata = _read(path)
    try:
        model.load_state_dict(_part(tensors, "model."))
        ema.model.load_state_dict(_part(tensors, "ema."))
        if optimizer is not None:
            steps = json.loads(metadata["steps"])
            for name, p in model.named_parameters():
                if name in steps:
                    state = {m: tensors[f"{m}.{name}"] for m in _MOMENTS}
                    optimizer.state[p] = {"step": torch.tensor(steps[name]), **state}
    except (RuntimeError, KeyError) as e:
        raise ValueError(f"{path} does not fit the model: {e}") from e
    return _progress(path, metadata)


def read_average(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The averaged weights of a checkpoint by name, and its `progress`. Raises as `load_state`."""
    tensors, metadata = _read(path, "ema.")
    return _part(tensors, "ema."), _progress(path, metadata)


def read_progress(path: Path) -> dict[str, Any]:
    """The `progress` that a checkpoint was saved with, of its header alone. Raises as `load_state`."""
    return _progress(path, _read(path, None)[1])


def check_same_run(path: Path, then: dict[str, Any], now: dict[str, Any], where: str = "") -> None:
    """Raise ValueError where the description of a run differs from the one its checkpoint was saved with.

    Names that only one of them has are of another version and say nothing. What is called "loop" (but its seed) and
    "data" may change on the way: a warning says so.
    """
    for name, value in json.loads(json.dumps(now)).items():
        before, place = then.get(name, value), f"{where}{name}"
        if isinstance(before, dict) and isinstance(value, dict):
            check_same_run(path, before, value, f"{place}.")
        elif before != value:
            change = f"{place} was {before}, is now {value}"
            parts = place.split(".")
            if name == "seed" or not {"loop", "data"} & set(parts[:-1]):
                raise ValueError(f"{path} belongs to a run with another configuration: {change}")
            log.warning("%s: %s", path, change)


def _read(path: Path, prefix: str | None = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors whose names begin with `prefix` (None: none of them), and the metadata."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such training checkpoint", str(path))
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
            names = [] if prefix is None else [k for k in f.keys() if k.startswith(prefix)]  # noqa: SIM118
            tensors = {k: f.get_tensor(k) for k in names}
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{path} is not a training checkpoint: {e}") from e
    if metadata.get("format") != str(FORMAT):
        raise ValueError(
            f"{path} must be a training checkpoint of format {FORMAT}, got {metadata.get('format')!r}"
        )
    return tensors, metadata


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _progress(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        progress = json.loads(metadata["progress"])
    except (KeyError, ValueError) as e:
        raise ValueError(f"{path} is not a training checkpoint: its progress is unreadable") from e
    if not isinstance(progress, dict):
        raise ValueError(f"{path} is not a training checkpoint: its progress is {progress!r}")
    return progress
