# SPDX-License-Identifier: Apache-2.0
"""What verified.json remembers holds as long as nothing changed that the run rested on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import pytest

from . import lanes
from .lanes import PLANTED, SETS, Builds, Record, cases_of, imported
from .toolchain import HERE


def test_imports_are_followed(tmp_path: Path) -> None:
    for name, text in {
        "a": "from . import b, toolchain\nfrom .ptx import Module\nimport json",
        "b": "def f():\n    from .c import x",
        "c": "from .a import y",
        "d": "",
        "toolchain": "from .d import z",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert {p.stem for p in imported(tmp_path / "a.py")} == {"a", "b", "c"}


@pytest.mark.parametrize("op", SETS)
def test_what_a_case_module_uses_is_in_its_fingerprint(op: str) -> None:
    """As Python has it: where the classes and functions that the module holds were defined."""
    origins = [getattr(value, "__module__", None) or "" for value in vars(cases_of(op)).values()]
    used = {o.removeprefix("tests.cuda.") for o in origins if o.startswith("tests.cuda.") and ".ptx" not in o}
    assert used
    assert used <= {p.stem for p in imported(HERE / f"{op}.py")}


class _Builds:
    """Any PTX does, and needs no nvcc."""

    def ptx(self, op: str, target: int) -> str:
        return f"{op} {target}"


SHARED = {
    "blends": {"ctm_map", "edm_denoise", "edm_precondition"},
    "latents": {"ctm_map", "edm_denoise", "edm_precondition", "sampler_step"},
    "gated_linear_unit": {"geglu", "swiglu"},
    "topk_rows": {"relaxed_topk", "threshold_topk"},
    "pairs": {"info_nce", "segment_similarity"},
    "frames": {"inverse_stft", "project_phase"},
    "probes": {"probes", PLANTED},
}


def test_a_change_reaches_the_units_that_import_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cuda"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    monkeypatch.setattr(lanes, "HERE", folder)
    monkeypatch.setattr(lanes.toolchain, "source_hash", lambda sources: "sources")
    ops = {op for users in SHARED.values() for op in users} - {PLANTED} | {"adaln_modulate", "snake"}
    units = [f"{op}/{lane}" for op in ops for lane in ("ptx-80", "host-race")] + [PLANTED]

    def fingerprints() -> dict[str, str]:
        record = Record(cast("Builds", _Builds()))
        return {unit: record.fingerprint(unit) for unit in units}

    before = fingerprints()
    assert fingerprints() == before
    for changed, users in SHARED.items():
        with (folder / f"{changed}.py").open("a") as module:
            module.write("# changed\n")
        after = fingerprints()
        assert {u.partition("/")[0] for u in units if after[u] != before[u]} == users, changed
        before = after
