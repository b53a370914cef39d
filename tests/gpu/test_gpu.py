# SPDX-License-Identifier: Apache-2.0
"""The command for a machine with a GPU: tried here on the CPU, and run where there is a GPU (`-m cuda`)."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prestissimo.ops.cases import CASES
from prestissimo.ops.op_case import OpCase

from . import __main__ as command
from . import jobs
from .report import Report, cell
from .schedule import FAILED, NOT_REACHED, PASSED, REFUSED, Job, Phase, Result, run_within

pytest.importorskip("prestissimo._core")
ROOT = Path(__file__).parents[2]


@pytest.mark.cuda
def test_on_the_gpu(tmp_path: Path) -> None:
    if why := command.why_not("cuda"):
        pytest.skip(why)
    assert command.main(["-o", str(tmp_path)]) == 0, (tmp_path / "gpu.md").read_text()


# ---- the whole command, on the CPU ---------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert command.main(["-o", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"skipped: torch {torch.__version__} sees no CUDA device\n"
    assert not (tmp_path / "none").exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a process of its own, as on a GPU; one small op."""
    assert command.main(["--device", "cpu", "--only", "philox_normal", "-o", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "gpu.json").read_text())
    found = {r["id"]: r["status"] for r in data["results"]}
    assert found["values/philox_normal/float32"] == PASSED
    assert found["time/philox_normal/mini-32s/float32"] == PASSED
    assert set(found.values()) == {PASSED}
    page = (tmp_path / "gpu.md").read_text()
    assert "| philox_normal | pass |" in page
    assert "- skipped: " in page
    assert "| philox_normal, mini-32s, float32 | 0.18 |" in page


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    for options, word in ((["--minutes", "0"], "minutes"), (["--only", "no_such"], "only")):
        with pytest.raises(SystemExit):
            command.main(["--device", "cpu", *options])
        assert word in capsys.readouterr().err


# ---- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_op_of_the_table_is_asked_everything(device: str) -> None:
    plan = {p.name: list(p.jobs) for p in jobs.phases(device)}
    everything = [j for p in plan.values() for j in p]
    assert len({j.id for j in everything}) == len(everything)
    assert {j.what for j in everything} <= set(jobs.RUN)
    asked = {(j.what, j.op, j.detail) for j in plan["correctness"]}
    for case in CASES:
        for dtype in case.dtypes:
            name = str(dtype)[6:]
            assert ("values", case.id, name) in asked
            assert (("gradients", case.id, name) in asked) == bool(case.gradients)
            assert (("stream", case.id, name) in asked) == (device == "cuda")
            for size in case.real if dtype != torch.float16 else ():
                assert Job("time", case.id, f"{size}/{name}") in plan["timings"]


def test_an_op_that_is_added_needs_no_edit() -> None:
    new = dataclasses.replace(CASES[0], name="some_new_op", variant="")
    plan = [j for p in jobs.phases("cpu", [*CASES, new]) for j in p.jobs]
    assert {j.what for j in plan if j.op == "some_new_op"} >= {"values", "gradients", "time"}


def test_ops_come_in_turn() -> None:
    """Each op's values before any op's second variant."""
    first = [j.op for j in jobs.phases("cpu")[0].jobs if j.what == "values"]
    names = {c.name for c in CASES}
    variants = {c.id: c.name for c in CASES}
    floats = [op for op in dict.fromkeys(first)][: len(names)]
    assert {variants[op] for op in floats} == names
    assert jobs.in_turn([[1, 2, 3], [4], [5, 6]]) == [1, 4, 5, 2, 6, 3]


# ---- time ----------------------------------------------------------------------------------------------------------


class Clock:
    """Every job takes what `cost` says, or is stopped."""

    def __init__(self, cost: Callable[[Job], float]) -> None:
        self.now, self.cost = 100.0, cost

    def __call__(self) -> float:
        return self.now

    def run(self, job: Job, seconds: float) -> Result:
        took = self.cost(job)
        self.now += min(took, seconds)
        return Result(job, PASSED if took <= seconds else FAILED)


def plan(checks: int, timings: int) -> list[Phase]:
    return [
        Phase("correctness", [Job("values", f"op{k}") for k in range(checks)], 0.6),
        Phase("timings", [Job("time", f"op{k}") for k in range(timings)], 1.0),
    ]


@pytest.mark.parametrize("cost", [0.5, 1.0, 7.0, 1000.0])
def test_the_time_is_kept(cost: float) -> None:
    clock = Clock(lambda job: cost)
    results = run_within(60, plan(100, 100), clock.run, clock=clock)
    assert len(results) == 200
    assert clock.now <= 160
    ran = [r for r in results if r.status != NOT_REACHED]
    assert all(r.text for r in results if r.status == NOT_REACHED)
    assert next(r.job.what for r in ran) == "values"


def test_what_is_left_comes_after_the_timings() -> None:
    clock = Clock(lambda job: 1.0)
    ran = [r for r in run_within(60, plan(45, 10), clock.run, clock=clock) if r.status == PASSED]
    what = [r.job.what for r in ran]
    assert what == ["values"] * 36 + ["time"] * 10 + ["values"] * 9


def test_a_job_has_its_own_limit() -> None:
    clock = Clock(lambda job: 500.0)
    run_within(1000, [Phase("one", [Job("values", "slow", limit=20)], 1.0)], clock.run, clock=clock)
    assert clock.now == 120


# ---- what is said of an op --------------------------------------------------------------------------------------


def with_op(monkeypatch: pytest.MonkeyPatch, change: Callable[..., object]) -> Job:
    """A job on an op of the table that has been tampered with."""
    case = CASES[0]

    def op(*args: object, **kwargs: object) -> object:
        return change(case.op(*args, **kwargs))

    bad: OpCase = dataclasses.replace(case, op=op)
    monkeypatch.setattr(jobs, "CASES", (bad,))
    return Job("values", bad.id, "float32")


def test_a_wrong_result_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    result, whole = jobs.run(with_op(monkeypatch, lambda y: y * 1.001), "cpu")
    assert (result.status, whole) == (FAILED, True)
    assert "exceeds" in result.text


def test_an_op_without_a_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(y: object) -> object:
        raise RuntimeError("linear: has no CUDA kernel")

    result, _ = jobs.run(with_op(monkeypatch, refuse), "cpu")
    assert result.status == REFUSED
    report = Report({"device": "none"}, 1, 1, {}, [result])
    assert "no kernel: RuntimeError: linear: has no CUDA kernel" in report.markdown()
    assert report.failed == []


def test_results_that_differ_from_run_to_run_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    job = with_op(monkeypatch, lambda y: y + 1e-3 * torch.rand(()))
    result, _ = jobs.run(dataclasses.replace(job, what="same bits"), "cpu")
    assert result.status == FAILED


# ---- the report ----------------------------------------------------------------------------------------------------


def test_the_report_tells_of_everything() -> None:
    timing = {
        "microseconds": {"prestissimo": 10.0, "eager": 30.0, "copy": 8.0},
        "bytes": 2_000_000, "flops": 1_000_000, "gain": 3.0, "bytes_ratio": 4.0, "of_copy": 0.8,
    }  # fmt: skip
    results = [
        Result(Job("values", "a", "float32"), PASSED),
        Result(Job("values", "a", "bfloat16"), FAILED, "a output 0: error 1 exceeds 0.5\nmore"),
        Result(Job("gradients", "b", "float32"), NOT_REACHED),
        Result(Job("ceiling", "copy"), PASSED, figures={"gb_per_s": 400.0}),
        Result(Job("ceiling", "float32"), PASSED, figures={"gflop_per_s": 1000.0}),
        Result(Job("time", "a", "real/float32"), PASSED, figures=timing),
        Result(Job("time", "b", "real/float32"), NOT_REACHED),
    ]
    report = Report({"device": "none"}, 10, 599, {"tensorrt": "tensorrt is not installed"}, results)
    page = report.markdown()
    assert "| a | 1 pass, 1 FAIL |  |" in page
    assert "| b |  | not reached |" in page
    assert "- values/a/bfloat16, FAIL: a output 0: error 1 exceeds 0.5\n" in page
    assert "- skipped: tensorrt is not installed" in page
    assert "| a, real, float32 | 2.00 | 10.0 | 30.0 | 3.00 (4) | 0.80 | 50 % |" in page
    assert "1 rows were not reached." in page
    assert report.verdict() == "1 pass, 1 FAIL, 1 not reached"
    assert cell([]) == ""


def test_the_tree_fits_through_a_door_of_60_megabytes() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name.decode() for name in done.stdout.split(b"\0") if name]
    assert sum(f.stat().st_size for f in files if f.is_file()) < 60e6
