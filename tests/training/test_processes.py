# SPDX-License-Identifier: Apache-2.0
"""Two processes under accelerate step as one process does with both of their batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from prestissimo.training.loop import LoopConfig, train
from prestissimo.training.processes import Processes

CONFIG = LoopConfig(steps=6, learning_rate=0.02, warmup=2, validate_every=3, log_every=1, ema=0.9)
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_processes import CONFIG, loss, network
from prestissimo.training.loop import train
model = network()
train(model, lambda step: loss(model, step), CONFIG, Path(sys.argv[2]), show_progress=False)
"""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loss(model: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    return (model(x) - x.prod(1, keepdim=True).tanh()).square().mean()


def test_two_processes_are_one_with_both_batches(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        str(script),
    ]
    done = subprocess.run(
        [*launch, str(Path(__file__).parent), str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    model = network()
    train(
        model,
        lambda step: (loss(model, 2 * step) + loss(model, 2 * step + 1)) / 2,
        CONFIG,
        tmp_path / "one",
        show_progress=False,
    )
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    lines = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert lines[1] == pytest.approx(lines[0], rel=1e-5)


def test_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = Processes()
    assert (processes.count, processes.first, processes.batch(7), processes.mean(0.25)) == (1, True, 7, 0.25)


def test_several_processes_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"prestissimo\[train\]"):
        Processes()
