# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints: weights, their average, AdamW's moments and the step, in one safetensors file.

No pickle. Batches are functions of (seed, step), so the step is all that a resumed run needs to see the same data.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .ema import Ema

FORMAT = 1
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    path: Path, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write everything that a run needs to go on; the file at `path` is whole at every moment.

    `progress` is any JSON: the step, hours so far, the configuration.
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
    partial = path.with_suffix(".partial")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, partial, metadata)
    with partial.open("rb") as f:
        os.fsync(f.fileno())
    partial.replace(path)


def load_state(
    path: Path, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Restore what `save_state` wrote and return its `progress`.

    Without `optimizer` the moments stay behind. Raises ValueError for a file that is not such a checkpoint or does
    not fit the model.
    """
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{path} is not a training checkpoint: {e}") from e
    if metadata.get("format") != str(FORMAT):
        raise ValueError(
            f"{path} must be a training checkpoint of format {FORMAT}, got {metadata.get('format')!r}"
        )
    part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
    try:
        model.load_state_dict(part("model."))
        ema.model.load_state_dict(part("ema."))
    except RuntimeError as e:
        raise ValueError(f"{path} does not fit the model: {e}") from e
    if optimizer is not None:
        steps = json.loads(metadata["steps"])
        for name, p in model.named_parameters():
            if name in steps:
                state = {m: tensors[f"{m}.{name}"] for m in _MOMENTS}
                optimizer.state[p] = {"step": torch.tensor(steps[name]), **state}
    return json.loads(metadata["progress"])
