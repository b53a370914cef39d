# SPDX-License-Identifier: Apache-2.0
"""Ops called from many threads at once, and very often: same bits, no growth."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prestissimo.ops.cases import CASES, OpCase

pytest.importorskip("prestissimo._core")

THREADS, ROUNDS = 8, 12
CALLS = {"tensors": 6_000, "arrays": 2_000, "errors": 1_000, "gradients": 1_000}
ALLOWED_BYTES = 1 << 19  # 90 to 520 bytes a call: less than a traceback or a node of the graph

by_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
one_each = pytest.mark.parametrize("case", {c.name: c for c in CASES}.values(), ids=lambda c: c.name)


def arguments(case: OpCase, shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    return case.make(shape, case.dtypes[0], torch.Generator().manual_seed(seed))


def outputs(y: Any) -> tuple[Any, ...]:
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def leaves(case: OpCase, a: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that get gradients, those inside lists included, which from now on ask for them."""
    found = [t for name in case.gradients for t in (a[name] if isinstance(a[name], list) else [a[name]])]
    return [t.requires_grad_() for t in found]


def bits(case: OpCase, shape: tuple[int, ...], seed: int) -> list[torch.Tensor]:
    """Results and gradients of one call."""
    a = arguments(case, shape, seed)
    inputs = leaves(case, a)
    y = outputs(case.op(**a))
    grads = torch.autograd.grad(y[0].sum(), inputs, allow_unused=True) if inputs else []
    return [t.detach() for t in y] + [g for g in grads if g is not None]


@by_case
def test_threads_at_once_get_the_same_bits(case: OpCase) -> None:
    """Every thread runs every job, each beginning elsewhere, so that different shapes overlap."""
    largest = sorted(case.small, key=lambda s: torch.Size(s).numel())[-3:]
    jobs = [(shape, seed) for seed, shape in enumerate(largest)]
    expected = [bits(case, *job) for job in jobs]
    wrong: list[str] = []
    gate = threading.Barrier(THREADS)

    def work(number: int) -> None:
        try:
            gate.wait()
            for i in range(ROUNDS):
                k = (i + number) % len(jobs)
                for one, two in zip(bits(case, *jobs[k]), expected[k], strict=True):
                    if not torch.equal(one, two):
                        wrong.append(f"thread {number}, shape {jobs[k][0]}")
        except Exception as error:
            wrong.append(f"thread {number}: {error!r}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def resident() -> int:
    """Bytes of this process in memory, less what the heap holds free (where libc can hand it back)."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(call: Callable[[], Any], calls: int = 10_000) -> int:
    """Bytes that calls leave behind, after as many as fill caches and pools; the least of up to three tries,
    since a leak is there in each."""
    for _ in range(calls // 10):
        call()
    least = 1 << 62
    for _ in range(3):
        before = resident()
        for _ in range(calls):
            call()
        least = min(least, resident() - before)
        if least <= ALLOWED_BYTES:
            break
    return least


def small(case: OpCase) -> dict[str, Any]:
    shape = next(s for s in case.small if 64 <= torch.Size(s).numel() <= 1024)
    return arguments(case, shape, 0)


def as_arrays(tensors: dict[str, Any]) -> dict[str, Any] | None:
    """The same arguments with NumPy arrays for tensors; None where one is bfloat16, which NumPy does not have."""
    found: list[torch.Tensor] = []

    def seen(t: torch.Tensor) -> Any:
        found.append(t)
        return None if t.dtype == torch.bfloat16 else t.numpy()

    arrays = {
        k: [seen(t) if torch.is_tensor(t) else t for t in v] if isinstance(v, list)
        else seen(v) if torch.is_tensor(v) else v
        for k, v in tensors.items()
    }  # fmt: skip
    return None if any(t.dtype == torch.bfloat16 for t in found) else arrays


@pytest.fixture
def one_thread() -> Iterator[None]:
    """No new pool of threads in the middle of a measurement."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def only_new_garbage() -> None:
    """What earlier tests left is walked once, not by each of eight collections: up to 9 s a test in a long run."""
    gc.collect()
    gc.freeze()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc/self/statm")
@pytest.mark.usefixtures("one_thread", "only_new_garbage")
@one_each
def test_memory_does_not_grow(case: OpCase) -> None:
    tensors = small(case)
    ways: dict[str, Callable[[], Any]] = {"tensors": lambda: case.op(**tensors)}
    arrays = as_arrays(tensors)
    if arrays is not None:
        ways["arrays"] = lambda: case.op(**arrays)
    spoilable = next(c for c in CASES if c.name == case.name and c.bad)
    spoil, error, _ = spoilable.bad[0]
    bad = spoil(small(spoilable))

    def refuse() -> None:
        try:
            spoilable.op(**bad)
        except error:
            return
        raise AssertionError("bad arguments were taken")

    ways["errors"] = refuse
    if case.gradients:
        recorded = small(case)
        inputs = leaves(case, recorded)
        ways["gradients"] = lambda: torch.autograd.grad(
            outputs(case.op(**recorded))[0].sum(), inputs, allow_unused=True
        )
    grown = {way: growth(call, CALLS[way]) for way, call in ways.items()}
    assert {way: n for way, n in grown.items() if n > ALLOWED_BYTES} == {}, grown


def test_a_leak_would_be_seen() -> None:
    kept: list[bytes] = []
    # 160 MB in all: more than Python's own arenas may still hold free after other tests
    assert growth(lambda: kept.append(b"\1" * 16_000)) > ALLOWED_BYTES
