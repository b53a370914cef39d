# SPDX-License-Identifier: Apache-2.0
"""The loop under every training run: schedule, clipping, average, logs, checkpoints, resume."""

from __future__ import annotations

import contextlib
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

from prestissimo.atomic import write_bytes
from prestissimo.interrupts import signals_held

from .ema import Ema
from .processes import Processes
from .state import check_same_run, load_state, read_progress, save_state

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


def learning_rate(config: LoopConfig, step: int) -> float:
    """The rate of optimizer step `step` (from 0): warm-up, plateau, linear decay.

    >>> config = LoopConfig(steps=100, learning_rate=1.0, warmup=10, decay=0.5)
    >>> [round(learning_rate(config, step), 3) for step in (0, 9, 50, 75, 100)]
    [0.1, 1.0, 1.0, 0.55, 0.1]
    """
    ramp = min(1.0, (step + 1) / max(config.warmup, 1))
    decay_steps = max(1, round(config.steps * config.decay))
    left = (config.steps - step) / decay_steps
    return config.learning_rate * ramp * (0.1 + 0.9 * min(1.0, max(left, 0.0)))


class Logs:
    """Scalars as JSON lines and, where tensorboard is installed, as its events.

    What an interrupted run logged after `step`, its last checkpoint, is dropped: those steps come again.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        if self._path.exists():
            self._rewind(step)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(str(folder), purge_step=step + 1)
        except ImportError:
            self._board = None

    def _rewind(self, step: int) -> None:
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            write_bytes(self._path, "".join(kept).encode(), overwrite=True)

    def write(self, step: int, **scalars: float) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard's events."""
        if self._board is not None:
            self._board.close()


def train(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    config: LoopConfig,
    folder: Path,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    description: dict[str, Any] | None = None,
    show_progress: bool = True,
) -> Ema:
    """Minimise `loss_of(step)`, a scalar that depends on `model` and on nothing random but (seed, step).

    Goes on from folder/state.safetensors where it exists: the loss curve is then that of a run never stopped, bit for
    bit on the same machine and threads. Ctrl-C and SIGTERM save first. Returns the moving average.
    `description`, any JSON, is kept in the checkpoint. A folder whose description differs raises ValueError, except
    for the options of this loop and what the description calls "data", which a run may change on the way.
    Under a launcher of several processes (`Processes`), process r of n takes batches r, n + r, 2n + r ..., all step
    with the mean gradient, and the first one writes.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    processes = Processes()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "state.safetensors"
    parameters = list(model.parameters())
    decay = [p for p in parameters if p.dim() >= 2]
    plain = [p for p in parameters if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    ema = Ema(model, config.ema)
    step, hours, mean_loss = 0, 0.0, math.nan
    if path.exists():
        check_same_run(path, read_progress(path), description or {})
        progress = load_state(path, model, ema, optimizer)
        step, hours, mean_loss = progress["step"], progress["hours"], progress.get("loss", math.nan)
        log.info("resuming %s at step %d after %.2f h", path, step, hours)
    processes.wait()  # nobody writes before all have read
    logs, first = Logs(folder, step) if processes.first else None, step
    started = saved = time.monotonic()
    kept = step

    def save() -> None:
        elapsed = hours + (time.monotonic() - started) / 3600
        facts = {"step": step, "hours": elapsed, "loss": mean_loss}
        save_state(path, model, ema, optimizer, {**facts, **(description or {})})

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = show_progress and processes.first
    bar = Progress(*columns, refresh_per_second=1, console=Console(stderr=True), disable=not shown)
    with contextlib.closing(logs) if logs else contextlib.nullcontext(), signals_held() as stop, bar:
        task = bar.add_task("training", total=config.steps, completed=step)
        while step < config.steps and not processes.any(bool(stop)):
            rate = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(processes.batch(step))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            processes.average(parameters)
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
            value = processes.mean(float(loss.detach()))
            if not (math.isfinite(norm) and math.isfinite(value)):
                raise FloatingPointError(
                    f"loss {value}, gradient norm {norm} at step {step}: lower learning_rate"
                )
            optimizer.step()
            ema.update(model, step)
            step += 1
            mean_loss = value if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * value
            bar.update(task, completed=step, description=f"loss {mean_loss:.4f}")
            if logs is None:
                continue
            if step % config.log_every == 0:
                seconds = time.monotonic() - started
                logs.write(step, loss=mean_loss, norm=norm, rate=rate, hours=hours + seconds / 3600,
                           seconds_per_step=seconds / (step - first))  # fmt: skip
            if validate is not None and (step % config.validate_every == 0 or step == config.steps):
                logs.write(step, **{f"validation/{k}": v for k, v in validate(ema.model).items()})
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            if due or step == config.steps:
                save()
                saved, kept = time.monotonic(), step
        if logs is not None and kept < step:
            save()
    processes.wait()
    return ema
