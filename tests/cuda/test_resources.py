# SPDX-License-Identifier: Apache-2.0
"""Cubins build from the verified PTX without a spill, and take what the committed table says."""

from __future__ import annotations

import pytest

from . import resources
from .lanes import OPS
from .ptx import Module
from .toolchain import TARGETS, missing_for, ptx

pytestmark = pytest.mark.skipif(missing_for("ptx") is not None, reason=missing_for("ptx") or "")

UNITS = [(op, target) for op in OPS for target in TARGETS]


@pytest.mark.parametrize(("op", "target"), UNITS)
def test_no_kernel_spills(op: str, target: int) -> None:
    """ptxas turns a spill or local memory into an error; every entry of the PTX is in the cubin."""
    used = resources.used(op, target)
    assert set(used) == set(Module(ptx(resources.source_of(op), target)).entries)
    assert all(u["spills"] == 0 for u in used.values())


def _same_nvcc() -> None:
    if resources.nvcc_version() != resources.committed_nvcc():
        pytest.skip(f"resources.json was made by nvcc {resources.committed_nvcc()}")


@pytest.mark.parametrize(("op", "target"), UNITS)
def test_registers_and_shared_memory_are_as_committed(op: str, target: int) -> None:
    _same_nvcc()
    expected = resources.committed()[f"{op}/sm_{target}"]
    used = resources.used(op, target)
    assert set(used) == set(expected), "python -m tests.cuda.resources writes the table anew"
    for kernel, row in used.items():
        assert row.items() <= expected[kernel].items(), f"{kernel}: {row}, committed {expected[kernel]}"


@pytest.mark.parametrize(("op", "target"), UNITS)
def test_instructions_are_as_committed(op: str, target: int) -> None:
    _same_nvcc()
    if resources.cuobjdump() is None:
        pytest.skip(f"cuobjdump or nvdisasm is not installed: {resources.INSTALL}")
    expected = resources.committed()[f"{op}/sm_{target}"]
    for kernel, row in resources.instructions(op, target).items():
        assert row.items() <= expected[kernel].items(), f"{kernel}: {row}, committed {expected[kernel]}"


@pytest.mark.parametrize("unit", sorted(resources.committed() if resources.TABLE.exists() else {}))
def test_vector_kernels_move_16_bytes(unit: str) -> None:
    """In the committed table: kernels named _x4 and _x8 load and store rows 16 bytes at a time; nothing is local."""
    for kernel, row in resources.committed()[unit].items():
        assert "LDL" not in row
        assert "STL" not in row
        if kernel.endswith(("_x4", "_x8")) and "rows" in kernel:
            assert row["LDG.128"] > 0, kernel
            assert row["STG.128"] > 0, kernel
