# SPDX-License-Identifier: Apache-2.0
"""The conventions that the lanes rest on, checked on the text of the kernels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .lanes import OPS, cases_of
from .toolchain import CSRC, HERE, ROOT

KERNELS = sorted((CSRC / "cuda").iterdir())
DEVICE = [p for p in KERNELS if p.suffix == ".cuh"]


def code(path_text: str) -> str:
    """Without comments and string literals."""
    text = re.sub(r"/\*.*?\*/", "", path_text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', text)


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.name)
def test_asm_is_in_one_header(path: Path) -> None:
    if path.name != "ptx.cuh":
        assert not re.search(r"\basm\b|__asm__", code(path.read_text()))


@pytest.mark.parametrize("path", [*DEVICE, HERE / "probes.cuh"], ids=lambda p: p.name)
def test_kernels_keep_to_what_the_lanes_can_check(path: Path) -> None:
    text = code(path.read_text())
    assert "<<<" not in text, "launches are the plan's and the launcher's"
    if path.name != "ptx.cuh":
        assert "__shared__" not in text, "SHARED_ARRAY and DYNAMIC_SHARED poison and track shared memory"
    for word in ("printf", "assert", "tex1D", "tex2D", "this_grid", "__trap", "__nanosleep"):
        assert not re.search(rf"\b{word}\b", text), word
    assert not re.search(r"\batomicAdd\s*\(\s*[^,]*float", text), "float atomics have no fixed order"


def test_launch_plans_are_plain_cpp() -> None:
    for path in KERNELS:
        if path.suffix == ".h":
            above = path.read_text().split("#if defined(__CUDACC__)")[0]
            assert not re.search(r"__device__|__global__|cuda_runtime|threadIdx", code(above)), path.name


def test_kernels_know_neither_python_nor_torch() -> None:
    for path in [*KERNELS, *(CSRC / "emulator").iterdir()]:
        assert not re.search(r'#include\s*[<"](Python|torch|ATen|pybind11|c10)', path.read_text()), path.name


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_cases(op: str) -> None:
    assert len(cases_of(op).CASES) >= 8
    assert (CSRC / "cuda" / f"{op}.cuh").exists()


def test_files_stay_readable() -> None:
    files = [*KERNELS, *(CSRC / "emulator").iterdir(), *HERE.glob("*.py"), *(HERE / "ptx").glob("*.py")]
    for path in [*files, *HERE.glob("*.cuh")]:
        assert path.read_text().count("\n") <= 400, f"{path.relative_to(ROOT)} has more than 400 lines"
