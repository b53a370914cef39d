# SPDX-License-Identifier: Apache-2.0
"""The loop: its schedule, average and checkpoints, and that a killed run goes on as if it had not been."""

from __future__ import annotations

import json
import logging
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prestissimo.training import loop, state
from prestissimo.training.ema import Ema
from prestissimo.training.loop import LoopConfig, learning_rate, train
from prestissimo.training.state import load_state, read_average, read_progress

CONFIG = LoopConfig(
    steps=20, learning_rate=0.02, warmup=5, decay=0.5, ema=0.9, validate_every=7, log_every=1, seed=3
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loss_of(model: nn.Module) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.prod(1, keepdim=True).tanh()).square().mean()

    return loss


def run(folder: Path, config: LoopConfig = CONFIG, **options: Any) -> nn.Module:
    model = network()
    train(model, loss_of(model), config, folder, lambda m: {"loss": float(loss_of(m)(999))}, **options)
    return model


def curve(folder: Path) -> list[dict[str, float]]:
    """The log without what the clock decides."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("hours", "seconds_per_step")} for line in lines]


def same_weights(a: Path, b: Path) -> None:
    from safetensors.torch import load_file

    one, two = load_file(a / "state.safetensors"), load_file(b / "state.safetensors")
    assert one.keys() == two.keys()
    assert {k.split(".")[0] for k in one} == {"model", "ema", "exp_avg", "exp_avg_sq"}
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


class Killed(BaseException):
    """What no handler expects."""


def killed_at(step: int, folder: Path, **options: Any) -> None:
    """A run whose process dies within optimizer step `step`, nothing being saved or tidied up after it."""
    model = network()
    inner = loss_of(model)

    def loss(now: int) -> Tensor:
        if now == step:
            raise Killed
        return inner(now)

    with pytest.raises(Killed):
        train(model, loss, CONFIG, folder, lambda m: {"loss": float(loss_of(m)(999))}, **options)


@pytest.fixture
def saves_each_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if three steps took longer than checkpoint_minutes."""
    clock = {"now": 0.0}

    def monotonic() -> float:
        return clock["now"]

    real = Ema.update

    def update(self: Ema, model: nn.Module, step: int) -> None:
        clock["now"] += 60 * CONFIG.checkpoint_minutes / 2.5
        real(self, model, step)

    monkeypatch.setattr(loop.time, "monotonic", monotonic)
    monkeypatch.setattr(Ema, "update", update)


@pytest.mark.usefixtures("saves_each_third_step")
@pytest.mark.parametrize("step", [1, 3, 8, 19])
def test_a_killed_run_ends_as_one_never_stopped(tmp_path: Path, step: int) -> None:
    run(tmp_path / "whole")
    killed_at(step, tmp_path / "killed")
    if step > 3:
        assert read_progress(tmp_path / "killed" / "state.safetensors")["step"] == step // 3 * 3
    run(tmp_path / "killed")
    same_weights(tmp_path / "whole", tmp_path / "killed")
    assert curve(tmp_path / "whole") == curve(tmp_path / "killed")
    assert [row["step"] for row in curve(tmp_path / "killed") if "loss" in row] == list(range(1, 21))
    assert [row["step"] for row in curve(tmp_path / "killed") if "validation/loss" in row] == [7, 14, 20]


@pytest.mark.usefixtures("saves_each_third_step")
def test_a_kill_while_saving_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    saved = []

    def half(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        saved.append(json.loads(metadata["progress"])["step"])
        real(tensors, path, metadata)
        if len(saved) == 3:
            path.write_bytes(path.read_bytes()[:1000])
            raise Killed

    real = state.save_file
    with monkeypatch.context() as patch:
        patch.setattr(state, "save_file", half)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    assert saved == [3, 6, 9]
    assert read_progress(tmp_path / "killed" / "state.safetensors")["step"] == 6
    run(tmp_path / "killed")
    same_weights(tmp_path / "whole", tmp_path / "killed")
    assert sorted(p.suffix for p in (tmp_path / "killed").glob("state.*")) == [".safetensors"]


def test_a_full_disk_is_an_os_error_with_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, replace(CONFIG, steps=2))
    before = (tmp_path / "state.safetensors").read_bytes()

    def full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"some")
        raise state.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OSError, match="No space left") as error:
        run(tmp_path, replace(CONFIG, steps=3))
    assert error.value.filename == str(tmp_path / "state.safetensors")
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


PROGRAM = """
import sys, time, torch
from pathlib import Path
from torch import nn
from prestissimo.training.loop import LoopConfig, train
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Linear(4, 1)
def loss_of(step):
    if len(sys.argv) > 2 and step == 6:
        print("ready", flush=True)
    if len(sys.argv) > 2 and step > 6:
        time.sleep(0.1)
    return (model(torch.randn(8, 4, generator=torch.Generator().manual_seed(step))) - 1).square().mean()
config = LoopConfig(steps=30, learning_rate=0.1, warmup=2, checkpoint_minutes=0, log_every=1)
train(model, loss_of, config, Path(sys.argv[1]), show_progress=False)
"""


def test_a_process_killed_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "killed"), "slowly"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 6 <= read_progress(tmp_path / "killed" / "state.safetensors")["step"] < 30
    for name in ("killed", "whole"):
        monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / name)])
        exec(PROGRAM, {})  # here it costs no new process
    same_weights(tmp_path / "whole", tmp_path / "killed")
    assert curve(tmp_path / "whole") == curve(tmp_path / "killed")


@pytest.fixture
def handlers() -> Iterator[list[int]]:
    """Handlers that note their signals, in place of dying."""
    seen: list[int] = []
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda n, frame: seen.append(n))
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_step_first(
    tmp_path: Path, handlers: list[int], number: signal.Signals
) -> None:
    model = network()
    inner = loss_of(model)

    def loss(step: int) -> Tensor:
        if step == 6:
            signal.raise_signal(number)
            assert not handlers, "it must wait for the end of the step"
        return inner(step)

    train(model, loss, CONFIG, tmp_path / "stopped")
    assert handlers == [number]
    assert read_progress(tmp_path / "stopped" / "state.safetensors")["step"] == 7
    run(tmp_path / "stopped")
    run(tmp_path / "whole")
    same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    model = network()

    def loss(step: int) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        return loss_of(model)(step)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(model, loss, replace(CONFIG, steps=2), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert read_progress(tmp_path / "state.safetensors")["step"] == 2


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    model = network()

    def loss(step: int) -> Tensor:
        if step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            for _ in range(1000):  # Python handles signals as it jumps
                pass
            raise AssertionError("the second interrupt came to nothing")
        return loss_of(model)(step)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(model, loss, CONFIG, tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "state.safetensors").exists()


def test_a_thread_may_train(tmp_path: Path) -> None:
    thread = threading.Thread(target=run, args=(tmp_path / "thread",))
    thread.start()
    thread.join()
    run(tmp_path / "main")
    same_weights(tmp_path / "main", tmp_path / "thread")


def test_more_steps_go_on_where_the_run_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, replace(CONFIG, steps=5), description={"loop": {"steps": 5}})
    with caplog.at_level(logging.INFO, "prestissimo"):
        run(tmp_path, replace(CONFIG, steps=8), description={"loop": {"steps": 8}})
    assert "loop.steps was 5, is now 8" in caplog.text
    assert "at step 5" in caplog.text
    assert read_progress(tmp_path / "state.safetensors")["step"] == 8


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    quick = replace(CONFIG, steps=2)
    run(
        tmp_path,
        quick,
        description={"config": {"model": {"width": 8}, "loop": {"seed": 0}}, "data": {"n": 4}},
    )
    before = (tmp_path / "state.safetensors").read_bytes()
    for changed, message in (
        ({"config": {"model": {"width": 9}}}, "config.model.width was 8, is now 9"),
        ({"config": {"loop": {"seed": 1}}}, "config.loop.seed was 0, is now 1"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            run(tmp_path, quick, description=changed)
        assert str(tmp_path) in str(error.value)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    run(tmp_path, quick, description={"config": {"model": {"width": 8, "new": 1}}, "data": {"n": 5}})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b[:100], "not a training checkpoint"),
        (lambda b: b"", "not a training checkpoint"),
        (lambda b: b"\xff" * 64 + b[64:], "not a training checkpoint"),
        (lambda b: b[:-4], "not a training checkpoint"),
        (lambda b: b.replace(b'"format":"1"', b'"format":"7"'), "format 1, got '7'"),
        (lambda b: b.replace(b'\\"step\\"', b'\\"step"'), "not a training checkpoint"),
        (lambda b: b.replace(b'"model.0.weight"', b'"model.9.weight"'), "does not fit the model"),
        (lambda b: b.replace(b'"exp_avg.0.bias"', b'"exp_avg.9.bias"'), "does not fit the model"),
    ],
)
def test_a_damaged_checkpoint_is_a_value_error(
    tmp_path: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    run(tmp_path, replace(CONFIG, steps=1))
    path = tmp_path / "state.safetensors"
    good = path.read_bytes()
    assert spoil(good) != good
    path.write_bytes(spoil(good))
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path)
    assert str(path) in str(error.value)


def test_moments_may_stay_behind(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, steps=2))
    model = network()
    average = Ema(model, 0.9)
    progress = load_state(tmp_path / "state.safetensors", model, average)
    assert progress["step"] == 2
    assert math.isfinite(progress["loss"])
    tensors, again = read_average(tmp_path / "state.safetensors")
    assert again == progress
    assert all(torch.equal(t, tensors[k]) for k, t in average.model.state_dict().items())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(FloatingPointError, match="at step 0: lower learning_rate"):
        train(model, lambda step: loss_of(model)(step) * math.inf, CONFIG, tmp_path)
    assert not (tmp_path / "state.safetensors").exists()


def test_matrices_decay_and_vectors_do_not(tmp_path: Path) -> None:
    """With no gradient AdamW leaves w (1 - rate * weight_decay) per step."""
    model = nn.Linear(3, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = LoopConfig(steps=4, learning_rate=0.1, warmup=0, decay=0.0, weight_decay=0.5)
    train(model, lambda step: 0 * (model.weight.sum() + model.bias.sum()), config, tmp_path)
    torch.testing.assert_close(model.weight.detach(), before["weight"] * 0.95**4)
    assert torch.equal(model.bias.detach(), before["bias"])


@settings(deadline=None)
@given(steps=st.integers(1, 5000), warmup=st.integers(0, 600), decay=st.floats(0, 1), peak=st.floats(1e-6, 1))
def test_the_learning_rate_warms_up_stays_and_falls_to_a_tenth(
    steps: int, warmup: int, decay: float, peak: float
) -> None:
    config = LoopConfig(steps=steps, learning_rate=peak, warmup=warmup, decay=decay)
    rates = [learning_rate(config, step) for step in range(steps + 1)]
    assert 0 < min(rates) <= max(rates) <= peak * (1 + 1e-12)
    falls = steps - max(1, round(steps * decay))  # where the decay begins
    assert rates[:falls] == sorted(rates[:falls])
    if warmup <= falls:
        assert rates[falls] == pytest.approx(peak)
        assert rates[-1] == pytest.approx(0.1 * peak)
    if warmup:
        assert rates[0] <= peak / warmup * (1 + 1e-12)


def test_the_average_follows_its_formula() -> None:
    model = nn.Linear(2, 2)
    average, expected = Ema(model, 0.6), model.weight.detach().double().clone()
    for step in range(20):
        with torch.no_grad():
            model.weight.normal_(generator=torch.Generator().manual_seed(step))
        average.update(model, step)
        d = min(0.6, (step + 1) / (step + 10))
        expected = d * expected + (1 - d) * model.weight.detach().double()
    torch.testing.assert_close(average.model.weight.double(), expected)
    assert not average.model.weight.requires_grad
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1.0"):
        Ema(model, 1.0)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"warmup": -1}, {"decay": 1.5}, {"learning_rate": 0.0}, {"learning_rate": math.nan}],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoopConfig(**wrong)
