# SPDX-License-Identifier: Apache-2.0
"""From a training checkpoint to a model folder that `prestissimo generate --model` takes."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import prestissimo.models
from prestissimo.atomic import atomic_path
from prestissimo.models.checkpoint import save_checkpoint
from prestissimo.models.config import (
    ModelConfig,
    SamplingConfig,
    assemble_model,
    read_model_config,
)
from prestissimo.models.schema import from_json
from prestissimo.models.tempo import TEMPO
from prestissimo.nn import DiT, DiTConfig

from .state import read_average

__all__ = ["BUNDLED", "export_dit"]

BUNDLED = Path(prestissimo.models.__file__).parent / "weights" / "mini"
_OTHER_PARTS = ("text.safetensors", "tokenizer.json", "codec.safetensors", TEMPO)


def export_dit(
    state: Path | str,
    folder: Path | str,
    *,
    base: Path | str | None = None,
    codec: Path | str | None = None,
    name: str | None = None,
    sampling: SamplingConfig | None = None,
    int8: bool = True,
) -> ModelConfig:
    """Write the averaged weights of a training checkpoint as `folder`/dit.safetensors, and its config.json.

    state: state.safetensors of `train_dit`, or its folder; a run that goes on meanwhile is not disturbed. What else a
    model needs (text encoder, tokenizer, codec, tempi of words) is copied from `base`, by default the bundled "mini",
    where `folder` lacks it; codec: a codec.safetensors that goes in whatever is there. name: the folder's by default;
    sampling: that of the folder's config.json, else of the base's, else the defaults; its sigma_data is the run's.
    int8: matrices with one scale per row (float32 otherwise).
    Raises FileNotFoundError, or ValueError that names the file that is wrong.
    """
    state, folder = Path(state), Path(folder)
    if state.is_dir():
        state = state / "state.safetensors"
    tensors, progress = read_average(state)
    run: dict[str, Any] = progress.get("config", {})
    if not isinstance(run, dict) or "model" not in run:
        raise ValueError(f"{state}: not a checkpoint of the diffusion transformer")
    config = from_json(DiTConfig, run["model"], f"{state}: model")
    with torch.device("meta"):
        dit = DiT(config)
    try:
        dit.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{state} does not fit its own configuration: {error}") from error

    source = BUNDLED if base is None else Path(base)
    folder.mkdir(parents=True, exist_ok=True)
    for part in _OTHER_PARTS:
        if not (folder / part).exists() and (source / part).is_file():
            _copy(source / part, folder / part)
    if codec is not None and Path(codec).resolve() != (folder / "codec.safetensors").resolve():
        _copy(Path(codec), folder / "codec.safetensors")
    if sampling is None:
        known = [f for f in (folder, source) if (f / "config.json").is_file()]
        sampling = read_model_config(known[0]).sampling if known else SamplingConfig()
    sampling = replace(sampling, sigma_data=float(run.get("sigma_data", sampling.sigma_data)))
    save_checkpoint(folder / "dit.safetensors", dit, asdict(config), int8=int8)
    return assemble_model(folder, name or folder.resolve().name, sampling)


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as partial:
        shutil.copyfile(source, partial)
