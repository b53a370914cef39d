# SPDX-License-Identifier: Apache-2.0
"""Stages: what they count, and the ranges that a profiler sees."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import prestissimo
from prestissimo import stages as module
from prestissimo.stages import Stages


def test_time_is_counted_by_name_and_across_errors() -> None:
    stages = Stages()
    for _ in range(2):
        with stages("decoding"):
            time.sleep(0.01)
    with pytest.raises(KeyError), stages("text"):
        raise KeyError
    assert stages.seconds["decoding"] >= 0.02
    assert list(stages.seconds) == ["decoding", "text"]


def test_a_profiler_sees_the_stages_of_a_piece(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def annotate(name: str, domain: str) -> Iterator[None]:
        seen.append(f"{domain}: {name}")
        yield
        seen.append(f"end of {name}")

    monkeypatch.setattr(module, "nvtx", SimpleNamespace(annotate=annotate))
    prestissimo.load(str(tiny_model))("calm", seconds=0.5, seed=1)
    assert seen == [
        line
        for name in ("text", "denoising", "decoding")
        for line in (f"prestissimo: {name}", f"end of {name}")
    ]
