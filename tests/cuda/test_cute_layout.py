# SPDX-License-Identifier: Apache-2.0
"""The fragment layouts of csrc/cuda/ptx.cuh against NVIDIA's own tables (CuTe, from PyPI nvidia-cutlass: optional)."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from . import toolchain
from .toolchain import HERE


def _include() -> Path:
    spec = importlib.util.find_spec("cutlass_library")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "source" / "include"
        if (path / "cute" / "atom" / "mma_traits_sm80.hpp").exists():
            return path
    pytest.skip("CuTe's headers are not installed (pip install nvidia-cutlass)")


def test_fragments_of_m16n8k16(tmp_path: Path) -> None:
    gxx, cuda, cute = toolchain.find("g++"), toolchain.cuda_include(), _include()
    if not gxx or not cuda:
        pytest.skip(toolchain.missing_for("host") or "")
    program = tmp_path / "layout"
    source = HERE / "cute_layout.cpp"
    subprocess.run(
        [gxx, "-std=c++17", "-w", "-I", cute, "-I", cuda, "-I", f"{cuda}/cccl", source, "-o", program],
        check=True,
    )
    theirs = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    ours = []
    for lane in range(32):
        g, q = lane // 4, lane % 4  # value v is half v % 2 of register v / 2
        for v in range(8):
            i, half = v // 2, v % 2
            ours.append(f"A {lane} {v} {g + 8 * (i & 1)} {2 * q + 8 * (i >> 1) + half}")
        ours += [f"B {lane} {v} {2 * q + 8 * (v // 2) + v % 2} {g}" for v in range(4)]
        ours += [f"C {lane} {v} {g + 8 * (v >> 1)} {2 * q + (v & 1)}" for v in range(4)]
    assert theirs == ours
