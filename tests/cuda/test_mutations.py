# SPDX-License-Identifier: Apache-2.0
"""What is committed of the mutation runs, and the arguments that a damage cannot be seen (tests/cuda/equivalent.py)."""

from __future__ import annotations

import json

import pytest

from . import toolchain
from .equivalent import stores_16_bits, why_equivalent
from .lanes import OPS, source_of
from .mutate import RECORD
from .ptx import Module

RECORDS = json.loads(RECORD.read_text())
WANTED = 0.9  # of the executed mutants that are not argued to be equivalent


@pytest.mark.parametrize("op", OPS)
def test_scores(op: str) -> None:
    """Every op has one, but for those that `unscored` names with the reason."""
    unit = f"{op}/compute_80"
    if op in RECORDS["unscored"]:
        pytest.skip(f"{op} has no score of its present PTX: {RECORDS['unscored'][op]}")
    assert unit in RECORDS["scores"], f"python -m tests.cuda.mutate {op} --record"
    score = RECORDS["scores"][unit]
    counted = score["noticed"] + score["survived"]
    assert score["score"] == round(score["noticed"] / counted, 4)
    assert score["score"] >= WANTED
    argued = [e for e in RECORDS["equivalent"] if e["of"] == unit]
    assert len(argued) == score["equivalent"]
    assert all(len(e["why"]) > 20 and e["old"] != e["new"] for e in argued)


@pytest.mark.skipif(toolchain.missing_for("ptx") is not None, reason=toolchain.missing_for("ptx") or "")
@pytest.mark.parametrize("op", OPS)
def test_scores_are_of_the_ptx_that_ships(op: str) -> None:
    """`also`: what nvcc writes of the same source in some runs, with a load of shared memory more."""
    score = RECORDS["scores"].get(f"{op}/compute_80", {})
    scored = {score.get("ptx"), *score.get("also", ())}
    current = toolchain.ptx_hash(toolchain.ptx(source_of(op), 80)) in scored
    assert current != (op in RECORDS["unscored"]), f"python -m tests.cuda.mutate {op} --record"


def test_no_score_is_of_an_op_that_is_gone() -> None:
    units = {f"{op}/compute_{target}" for op in OPS for target in toolchain.TARGETS}
    assert set(RECORDS["scores"]) | {e["of"] for e in RECORDS["equivalent"]} <= units
    assert set(RECORDS["unscored"]) <= set(OPS)


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

SMALLER = """setp.lt.s64 %p1, %rd1, %rd2;
selp.b64 %rd3, %rd1, %rd2, %p1;"""

EXPONENTIAL = """mov.f32 %f1, 0f3F000000;
mov.f32 %f2, 0f3BBB989D;
fma.rn.f32 %f3, %f4, %f2, %f1;
cvt.sat.f32.f32 %f5, %f3;"""
POWER = """shr.s32 %r2, %r1, 1;
shl.b32 %r3, %r2, 23;
add.s32 %r4, %r3, 1065353216;
mov.b32 %f1, %r4;
sub.s32 %r5, %r6, %r2;
shl.b32 %r7, %r5, 23;"""
SQUARE = """and.b32 %r2, %r1, 2;
setp.eq.s32 %p1, %r2, 0;
neg.f32 %f2, %f1;
selp.f32 %f3, %f1, %f2, %p1;
mul.f32 %f4, %f3, %f3;"""
CLAMP = """setp.lt.f32 %p1, %f1, 0fC2D00000;
selp.f32 %f2, 0fC2D00000, %f1, %p1;
setp.gt.f32 %p2, %f1, 0f42B20000;
selp.f32 %f3, 0f42B20000, %f2, %p2;"""
SLOT = """shr.u32 %r2, %r1, 3;
and.b32 %r3, %r2, 536870908;
add.s32 %r4, %r9, %r3;
st.shared.f32 [%r4+128], %f1;"""

CLAMPED = """setp.lt.s64 %p1, %rd1, 0;
min.s64 %rd3, %rd1, %rd2;
selp.b64 %rd4, 0, %rd3, %p1;"""
LOGARITHM = """add.s32 %r2, %r1, -1059760811;
and.b32 %r3, %r2, -8388608;
sub.s32 %r4, %r1, %r3;
mov.b32 %f1, %r4;
cvt.rn.f32.s32 %f2, %r3;"""

SHIFTED = """shl.b32 %r2, %r1, 3;
and.b32 %r3, %r2, 248;"""
BESIDE = """setp.lt.f32 %p1, %f1, 0f3F7FFFDE;
setp.gt.f32 %p2, %f1, 0f360637BD;"""

HALF = """shr.u32 %r2, %r1, 31;
add.s32 %r3, %r1, %r2;
shr.s32 %r4, %r3, 1;"""
TANH = """setp.ge.f32 %p1, %f1, 0f41102CB4;
selp.f32 %f2, 0f3F800000, %f3, %p1;"""

SUBNORMAL = """setp.gt.f32 %p9, %f9, 0f360637BD;
setp.lt.f32 %p1, %f1, 0f00800000;
mul.f32 %f2, %f1, 0f4B000000;
selp.f32 %f3, %f2, %f1, %p1;
selp.f32 %f4, 0fC1B80000, 0f00000000, %p1;"""

INVERTED = "@%p1 bra $L__BB0_2;", "@!%p1 bra $L__BB0_2;"
EQUAL = "setp.lt.s64 %p1, %rd1, %rd2;", "setp.le.s64 %p1, %rd1, %rd2;"
NO_HALF = "fma.rn.f32 %f3, %f4, %f2, %f1;", "mul.f32 %f3, %f4, %f2;"
ODD = "and.b32 %r3, %r2, 536870908;", "and.b32 %r3, %r2, 536870909;"
ONE_BIT = "add.s32 %r4, %r3, 1065353216;", "add.s32 %r4, %r3, 1065353217;"
QUARTER = "shr.s32 %r2, %r1, 1;", "shr.s32 %r2, %r1, 2;"
SIGN = "and.b32 %r2, %r1, 2;", "or.b32 %r2, %r1, 2;"
ABOVE = "setp.gt.f32 %p2, %f1, 0f42B20000;", "setp.ge.f32 %p2, %f1, 0f42B20000;"
WIDER = "and.b64 %rd23, %rd4, -4294967296;", "and.b64 %rd23, %rd4, -4294967295;"
MASKED = "and.b32 %r2, %r1, -1073741824;", "and.b32 %r2, %r1, -1073741823;"


LOWEST = "and.b32 %r3, %r2, 248;", "and.b32 %r3, %r2, 249;"
ON_IT = "setp.gt.f32 %p2, %f1, 0f360637BD;", "setp.ge.f32 %p2, %f1, 0f360637BD;"
NORMAL = "setp.lt.f32 %p1, %f1, 0f00800000;", "setp.le.f32 %p1, %f1, 0f00800000;"
NOT_SCALED = "mul.f32 %f2, %f1, 0f4B000000;", "add.f32 %f2, %f1, 0f4B000000;"
NO_SIGN = "shr.u32 %r2, %r1, 31;", "shr.u32 %r2, %r1, 32;"
AT_NINE = "setp.ge.f32 %p1, %f1, 0f41102CB4;", "setp.gt.f32 %p1, %f1, 0f41102CB4;"
AT_ZERO = "setp.lt.s64 %p1, %rd1, 0;", "setp.le.s64 %p1, %rd1, 0;"
BEGINNING = "add.s32 %r2, %r1, -1059760811;", "add.s32 %r2, %r1, -1059760810;"
LAST_PLACE = "and.b32 %r3, %r2, -8388608;", "and.b32 %r3, %r2, -8388607;"


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
        (DIVISION.replace("cvt.u64.u32 %rd5", "cvt.u64.u32 %rd6"), *WIDER, True),
        (DIVISION.replace("@%p1 bra", "@!%p1 bra").replace("cvt.u64.u32 %rd5", "mov.u64 %rd5"), *WIDER, False),
        (QUADRANT, *MASKED, True),
        (QUADRANT, "and.b32 %r4, %r3, -2147483648;", "and.b32 %r4, %r3, -2147483647;", True),
        (QUADRANT, "and.b32 %r4, %r3, -2147483648;", "or.b32 %r4, %r3, -2147483648;", False),
        (QUADRANT + "\nxor.b32 %r9, %r2, %r1;", *MASKED, False),
        (SMALLER, *EQUAL, True),
        # selects something else; decides a branch too
        (SMALLER.replace("%rd1, %rd2, %p1", "%rd1, %rd9, %p1"), *EQUAL, False),
        (CLAMP, *ABOVE, True),
        (CLAMP.replace("selp.f32 %f2, 0fC2D00000, %f1", "selp.f32 %f2, 0fC2D00000, %f9"), *ABOVE, False),
        (CLAMP.replace("0f42B20000, %f2, %p2", "0f00000000, %f2, %p2"), *ABOVE, False),
        # what is selected is no clamp: its predicate compares another register, with another number, or is two; a clamp
        # from above; a clamp that moves the number compared with
        (CLAMP.replace("%p1, %f1,", "%p1, %f9,"), *ABOVE, False),
        (CLAMP.replace("%p1, %f1, 0fC2D00000", "%p1, %f1, 0fC2D00001"), *ABOVE, False),
        (CLAMP + "\nsetp.lt.f32 %p1, %f8, 0fC2D00000;", *ABOVE, False),
        (CLAMP.replace("setp.lt.f32 %p1", "setp.gt.f32 %p1"), *ABOVE, False),
        (CLAMP.replace("setp.gt", "ld.global.v2.f32 {%f0, %f1}, [%rd1];\nsetp.gt"), *ABOVE, False),
        ("ld.global.v2.f32 {%f0, %f1}, [%rd1];\n" + CLAMP + "\nmov.f32 %f1, %f4;", *ABOVE, True),
        (CLAMP.replace("0fC2D00000", "0f42C80000"), *ABOVE, False),
        (POWER, *ONE_BIT, True),
        (POWER.replace("mov.b32 %f1", "add.s32 %r8"), *ONE_BIT, False),
        (POWER, *QUARTER, True),
        (POWER.replace("shl.b32 %r7, %r5, 23", "shl.b32 %r7, %r5, 22"), *QUARTER, False),
        (POWER + "\nadd.s32 %r9, %r1, %r2;", *QUARTER, False),
        (SQUARE, *SIGN, True),
        (SQUARE.replace("%f4, %f3, %f3", "%f4, %f3, %f1"), *SIGN, False),
        ("bar.sync 0;\nret;", "bar.sync 0;", "", True),
        ("bar.sync 0;\nst.global.f32 [%rd1], %f1;\nret;", "bar.sync 0;", "", False),
        (EXPONENTIAL, *NO_HALF, True),
        (EXPONENTIAL.replace("3BBB989D", "3FB8AA3B"), *NO_HALF, False),
        (EXPONENTIAL.replace("cvt.sat", "cvt.rn"), *NO_HALF, False),
        (SLOT, *ODD, True),
        (SLOT + "\nld.shared.f32 %f2, [%r4];", *ODD, False),
        (SLOT.replace("st.shared", "st.global"), *ODD, False),
        (SHIFTED, *LOWEST, True),
        (SHIFTED.replace("shl", "shr"), *LOWEST, False),
        (SHIFTED + "\nmov.b32 %r2, %r9;", *LOWEST, False),
        (BESIDE, *ON_IT, True),
        (BESIDE.replace("%p1, %f1", "%p1, %f9"), *ON_IT, False),
        (SUBNORMAL, *NORMAL, True),
        (SUBNORMAL, *NOT_SCALED, True),
        (SUBNORMAL.replace("0f360637BD", "0f3F7FFFDE"), *NOT_SCALED, False),
        (SUBNORMAL.replace("0fC1B80000", "0f00000000"), *NORMAL, False),
        (HALF, *NO_SIGN, True),
        (HALF.replace("%r3, 1;", "%r3, 2;"), *NO_SIGN, False),
        (HALF + "\nadd.s32 %r8, %r2, 1;", *NO_SIGN, False),
        (TANH, *AT_NINE, True),
        (TANH.replace("0f3F800000", "0f00000000"), *AT_NINE, False),
        (CLAMPED, *AT_ZERO, True),
        (CLAMPED.replace("min", "max"), *AT_ZERO, False),
        (CLAMPED.replace("0, %rd3, %p1", "1, %rd3, %p1"), *AT_ZERO, False),
        (CLAMPED + "\n@%p1 bra $L__BB0_2;", *AT_ZERO, False),
        (LOGARITHM, *BEGINNING, True),
        (LOGARITHM, *LAST_PLACE, True),
        (LOGARITHM, BEGINNING[0], "sub.s32 %r2, %r1, -1059760811;", False),
        (LOGARITHM.replace("sub.s32 %r4, %r1", "sub.s32 %r4, %r9"), *LAST_PLACE, False),
        (LOGARITHM + "\nadd.s32 %r8, %r2, 1;", *BEGINNING, False),
        (SMALLER + "\n@%p1 bra $L__BB0_2;", *EQUAL, False),
    ],
)  # fmt: skip
def test_arguments(code: str, old: str, new: str, holds: bool) -> None:
    statements = code.split("\n")
    at = statements.index(old)
    assert (why_equivalent("snake_rows_f16_x8", statements, at, new) is not None) == holds
    if (old, new) in (
        NO_HALF,
        ONE_BIT,
        BEGINNING,
        LAST_PLACE,
    ):  # as many roundings of float32 show in a float32
        assert why_equivalent("snake_rows_f32_x4", statements, at, new) is None


def test_what_a_kernel_stores() -> None:
    assert all(map(stores_16_bits, ("snake_rows_f16_x8", "quantize_bf16_x8", "relaxed_topk_backward_f16")))
    floats = (
        "snake_rows_f32_x4",
        "gated_residual_rows_f32_f16_x1",
        "info_nce_total",
        "info_nce_tiles_bf16",
        "segment_similarity_gradient_f16",
    )
    assert not any(map(stores_16_bits, floats))
