# SPDX-License-Identifier: Apache-2.0
"""The loop under every training run: schedule, clipping, average, logs, checkpoints, resume."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .ema import Ema
from .state import load_state, save_state

log = logging.getLogger("prestissimo")


@dataclass(frozen=True)
class LoopConfig:
    """steps: optimizer steps in all; learning_rate: the plateau, reached after `warmup` steps and, over the last
    `decay` (a share of all steps), left linearly for a tenth of itself; clip: largest gradient norm; minutes between
    checkpoints; validate_every: steps between validations."""

    steps: int = 20000
    learning_rate: float = 8e-4
    warmup: int = 500
    decay: float = 0.25
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.999
    checkpoint_minutes: float = 4.0
    validate_every: int = 1000
    log_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 0 or not 0 <= self.decay <= 1 or not self.learning_rate > 0:
            raise ValueError(f"steps, warmup, decay and learning_rate must be sensible, got {self}")


def learning_rate(config: LoopConfig, step: int, since_resume: int | None = None) -> float:
    """The rate of optimizer step `step` (from 0): warm-up, plateau, linear decay.

    `since_resume` warms up again, over up to 200 steps, a run that lost its optimizer's moments.
    """
    ramp = min(1.0, (step + 1) / max(config.warmup, 1))
    if since_resume is not None:
        ramp = min(ramp, (since_resume + 1) / min(200, max(config.warmup, 1)))
    decay_steps = max(1, round(config.steps * config.decay))
    left = (config.steps - step) / decay_steps
    return config.learning_rate * ramp * (0.1 + 0.9 * min(1.0, max(left, 0.0)))


class Logs:
    """Scalars as JSON lines and, where tensorboard is installed, as its events."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(str(folder))
        except ImportError:
            self._board = None

    def write(self, step: int, **scalars: float) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)


def train(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    config: LoopConfig,
    folder: Path,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    description: dict[str, Any] | None = None,
    init_weights: bool = False,
) -> Ema:
    """Minimise `loss_of(step)`, a scalar that depends on `model` and on nothing random but (seed, step).

    Goes on from folder/state.safetensors where it exists: the loss curve is then that of a run never stopped.
    `description` is kept in the checkpoint. `init_weights`: the weights of `model` come from elsewhere, so only the
    optimizer is warmed up. Returns the moving average.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "state.safetensors"
    parameters = list(model.parameters())
    decay = [p for p in parameters if p.dim() >= 2]
    plain = [p for p in parameters if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    ema = Ema(model, config.ema)
    step, hours, rewarm = 0, 0.0, 0 if init_weights else None
    if path.exists():
        progress = load_state(path, model, ema, optimizer)
        step, hours, rewarm = progress["step"], progress["hours"], None
        log.info("resuming %s at step %d after %.2f h", path, step, hours)
    logs, mean_loss, first = Logs(folder), math.nan, step
    started = saved = time.monotonic()

    def save() -> None:
        elapsed = hours + (time.monotonic() - started) / 3600
        save_state(path, model, ema, optimizer, {"step": step, "hours": elapsed, **(description or {})})

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, refresh_per_second=1) as bar:
        task = bar.add_task("training", total=config.steps, completed=step)
        while step < config.steps:
            rate = learning_rate(config, step, None if rewarm is None else step - first)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
            value = float(loss.detach())
            if not (math.isfinite(norm) and math.isfinite(value)):
                raise FloatingPointError(
                    f"loss {value}, gradient norm {norm} at step {step}: lower learning_rate"
                )
            optimizer.step()
            ema.update(model, step)
            step += 1
            mean_loss = value if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * value
            bar.update(task, completed=step, description=f"loss {mean_loss:.4f}")
            if step % config.log_every == 0:
                seconds = time.monotonic() - started
                logs.write(step, loss=mean_loss, norm=norm, rate=rate, hours=hours + seconds / 3600,
                           seconds_per_step=seconds / (step - first))  # fmt: skip
            if validate is not None and (step % config.validate_every == 0 or step == config.steps):
                logs.write(step, **{f"validation/{k}": v for k, v in validate(ema.model).items()})
            if time.monotonic() - saved > 60 * config.checkpoint_minutes or step == config.steps:
                save()
                saved = time.monotonic()
    return ema
