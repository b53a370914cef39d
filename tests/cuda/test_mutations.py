# SPDX-License-Identifier: Apache-2.0
"""What is committed of the mutation runs, and the arguments that a damage cannot be seen (tests/cuda/equivalent.py)."""

from __future__ import annotations

import json

import pytest

from . import toolchain
from .equivalent import why_equivalent
from .lanes import OPS, source_of
from .mutate import RECORD
from .ptx import Module

RECORDS = json.loads(RECORD.read_text())
WANTED = 0.9  # of the executed mutants that are not argued to be equivalent


@pytest.mark.parametrize("unit", sorted(RECORDS["scores"]))
def test_scores(unit: str) -> None:
    score = RECORDS["scores"][unit]
    counted = score["noticed"] + score["survived"]
    assert score["score"] == round(score["noticed"] / counted, 4)
    assert score["score"] >= WANTED
    argued = [e for e in RECORDS["equivalent"] if e["of"] == unit]
    assert len(argued) == score["equivalent"]
    assert all(len(e["why"]) > 20 and e["old"] != e["new"] for e in argued)


@pytest.mark.skipif(toolchain.missing_for("ptx") is not None, reason=toolchain.missing_for("ptx") or "")
@pytest.mark.parametrize("unit", sorted({e["of"] for e in RECORDS["equivalent"]}))
def test_what_is_argued_is_there(unit: str) -> None:
    """As long as the PTX is the one that the arguments were made for."""
    op, target = unit.split("/compute_")
    assert op in OPS
    text = toolchain.ptx(source_of(op), int(target))
    if toolchain.ptx_hash(text) != RECORDS["scores"][unit]["ptx"]:
        pytest.skip("the kernels have changed since: python -m tests.cuda.mutate runs them anew")
    module = Module(text)
    for e in (e for e in RECORDS["equivalent"] if e["of"] == unit):
        found = [i.text + ";" for i in module.kernel(e["kernel"]).instructions if i.line == e["line"]]
        assert found == [e["old"]], e


QUOTIENT = """shr.s64 %rd2, %rd1, 63;
shr.u64 %rd3, %rd2, 62;
add.s64 %rd4, %rd1, %rd3;
shr.s64 %rd5, %rd4, 2;"""
DIVISION = """cvt.u64.u32 %rd5, %r1;
and.b64 %rd23, %rd4, -4294967296;
setp.eq.s64 %p1, %rd23, 0;
@%p1 bra $L__BB0_2;
div.s64 %rd90, %rd5, %rd4;
bra.uni $L__BB0_3;
cvt.u32.u64 %r2, %rd4;
div.u32 %r4, %r3, %r2;"""
QUADRANT = """and.b32 %r2, %r1, -1073741824;
add.s32 %r3, %r2, 1073741824;
and.b32 %r4, %r3, -2147483648;"""

INVERTED = "@%p1 bra $L__BB0_2;", "@!%p1 bra $L__BB0_2;"
MASKED = "and.b32 %r2, %r1, -1073741824;", "and.b32 %r2, %r1, -1073741823;"


@pytest.mark.parametrize(
    ("code", "old", "new", "holds"),
    [
        (QUOTIENT, "shr.s64 %rd2, %rd1, 63;", "shr.s64 %rd2, %rd1, 64;", True),
        (QUOTIENT, "shr.u64 %rd3, %rd2, 62;", "shr.u64 %rd3, %rd2, 63;", True),
        (QUOTIENT, "shr.s64 %rd5, %rd4, 2;", "shr.s64 %rd5, %rd4, 3;", False),
        # not a sign that is shifted; a quotient by another power
        (QUOTIENT.replace(", 63;", ", 60;"), "shr.u64 %rd3, %rd2, 62;", "shr.u64 %rd3, %rd2, 63;", False),
        (QUOTIENT.replace("%rd4, 2;", "%rd4, 3;"), "shr.u64 %rd3, %rd2, 62;", "shr.u64 %rd3, %rd2, 63;", False),
        # what is shifted is used elsewhere too
        (QUOTIENT + "\nst.global.u64 [%rd9], %rd3;", "shr.u64 %rd3, %rd2, 62;", "shr.u64 %rd3, %rd2, 63;", False),
        (DIVISION, "and.b64 %rd23, %rd4, -4294967296;", "or.b64 %rd23, %rd4, -4294967296;", True),
        (DIVISION, "setp.eq.s64 %p1, %rd23, 0;", "setp.ne.s64 %p1, %rd23, 0;", True),
        (DIVISION, *INVERTED, True),
        # the divided number has 64 bits of its own; there is no second division
        (DIVISION.replace("cvt.u64.u32 %rd5", "cvt.u64.u32 %rd6"), *INVERTED, False),
        (DIVISION.replace("div.u32", "add.u32"), *INVERTED, False),
        (QUADRANT, *MASKED, True),
        (QUADRANT, "and.b32 %r4, %r3, -2147483648;", "and.b32 %r4, %r3, -2147483647;", True),
        (QUADRANT, "and.b32 %r4, %r3, -2147483648;", "or.b32 %r4, %r3, -2147483648;", False),
        (QUADRANT + "\nxor.b32 %r9, %r2, %r1;", *MASKED, False),
    ],
)  # fmt: skip
def test_arguments(code: str, old: str, new: str, holds: bool) -> None:
    statements = code.split("\n")
    assert (why_equivalent(statements, statements.index(old), new) is not None) == holds
