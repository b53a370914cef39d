# SPDX-License-Identifier: Apache-2.0
"""The PTX interpreter, instruction by instruction, on hand-written PTX whose results are known."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .ptx import Machine, Module, Options, PtxError
from .ptx.formats import bf16_to_f32, fma_to_odd, round_bf16, round_f32

HEAD = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p_in, .param .u64 p_out)
{
  .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .b64 %rd<16>;
  ld.param.u64 %rd1, [p_in];
  ld.param.u64 %rd2, [p_out];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd3, %r1, 4;
  add.s64 %rd4, %rd1, %rd3;
  add.s64 %rd5, %rd2, %rd3;
  ld.global.b32 %r2, [%rd4];
  and.b32 %r3, %r1, 31;
"""
FOOT = """
  st.global.b32 [%rd5], %r10;
  ret;
}
"""


def execute(body: str, values: np.ndarray, options: Options | None = None) -> np.ndarray:
    """%r2 holds this thread's value, %r1 its index, %r3 its lane; %r10 is the result."""
    machine = Machine(HEAD + body + FOOT, options)
    source = machine.memory.allocate(values.nbytes, values.tobytes())
    out = machine.memory.allocate(values.nbytes, None)
    findings = machine.launch("k", (1,), (len(values),), struct.pack("<QQ", source, out))
    assert findings == []
    return np.frombuffer(machine.memory.read(out, values.nbytes), np.uint32)


def floats(*values: float) -> np.ndarray:
    return np.resize(np.array(values, np.float32), 32).view(np.uint32)


def integers(*values: int) -> np.ndarray:
    return np.array([v & 0xFFFFFFFF for v in np.resize(np.array(values, np.int64), 32).tolist()], np.uint32)


TINY = 2.0**-130  # a subnormal float32


@pytest.mark.parametrize(
    ("instruction", "value", "expected"),
    [
        ("add.f32 %f2, %f1, 0f00000000;", TINY, TINY),
        ("add.ftz.f32 %f2, %f1, 0f00000000;", TINY, 0.0),
        ("add.ftz.f32 %f2, %f1, 0f80000000;", -TINY, -0.0),
        ("mul.ftz.f32 %f2, %f1, 0f30000000;", 2.0**-100, 0.0),  # the result is subnormal
        ("mul.f32 %f2, %f1, 0f30000000;", 2.0**-100, 2.0**-131),
        ("fma.rn.ftz.f32 %f2, %f1, 0f3F800000, 0f00000000;", TINY, 0.0),
        ("max.ftz.f32 %f2, %f1, 0fBF800000;", TINY, 0.0),
        ("ex2.approx.f32 %f2, %f1;", -130.0, 2.0**-130),
        ("ex2.approx.ftz.f32 %f2, %f1;", -130.0, 0.0),
        ("neg.ftz.f32 %f2, %f1;", TINY, -0.0),
        ("add.sat.f32 %f2, %f1, 0f3F800000;", 0.5, 1.0),
        ("add.sat.f32 %f2, %f1, 0f00000000;", float("nan"), 0.0),
        ("add.rz.f32 %f2, %f1, 0f33000000;", 1.0 + 2.0**-23, 1.0 + 2.0**-23),
        ("add.rp.f32 %f2, %f1, 0f20000000;", 1.0, 1.0 + 2.0**-23),
        ("add.rm.f32 %f2, %f1, 0fA0000000;", 1.0, 1.0 - 2.0**-24),
        ("min.f32 %f2, %f1, 0f00000000;", -0.0, -0.0),
        ("max.f32 %f2, %f1, 0f40000000;", float("nan"), 2.0),
        ("max.NaN.f32 %f2, %f1, 0f40000000;", float("nan"), float("nan")),
        ("div.rn.f32 %f2, %f1, 0f40400000;", 1.0, 1.0 / 3.0),
        ("rsqrt.approx.f32 %f2, %f1;", 4.0, 0.5),
        ("sqrt.rn.f32 %f2, %f1;", 2.0, 2.0**0.5),
    ],
)
def test_float32(instruction: str, value: float, expected: float) -> None:
    body = f"mov.b32 %f1, %r2;\n{instruction}\nmov.b32 %r10, %f2;"
    got = execute(body, floats(value))[0]
    if np.isnan(expected):
        assert np.isnan(got.view(np.float32))
    else:
        assert got == np.float32(expected).view(np.uint32)


@pytest.mark.parametrize(
    ("instruction", "value", "expected"),
    [
        ("add.sat.s32 %r10, %r2, 5;", 2**31 - 3, 2**31 - 1),
        ("sub.sat.s32 %r10, %r2, 5;", -(2**31) + 2, -(2**31)),
        ("add.s32 %r10, %r2, 5;", 2**31 - 3, 2**31 + 2),
        ("cvt.sat.u8.s32 %r10, %r2;", 300, 255),
        ("cvt.sat.u8.s32 %r10, %r2;", -3, 0),
        ("cvt.sat.s8.s32 %r10, %r2;", -300, -128),
        ("cvt.s8.s32 %r10, %r2;", 0x1FF, -1),
        ("mul.hi.u32 %r10, %r2, -766435501;", 0xFFFFFFFF, 0xD2511F52),
        ("mul.hi.s32 %r10, %r2, 65536;", -65537, -2),
        ("shr.s32 %r10, %r2, 40;", -5, -1),
        ("shl.b32 %r10, %r2, 32;", 1, 0),
        ("shf.l.wrap.b32 %r10, %r2, %r2, 8;", 0x12345678, 0x34567812),
        ("shf.r.clamp.b32 %r10, 0, %r2, 40;", 0x12345678, 0x12345678),
        ("bfe.s32 %r10, %r2, 4, 8;", 0xF80, -8),
        ("bfe.u32 %r10, %r2, 28, 8;", 0xA0000000, 0xA),
        ("bfe.s32 %r10, %r2, 24, 16;", 0x80000000, -128),
        ("bfe.s32 %r10, %r2, 40, 4;", 0x80000000, -1),
        ("bfe.u32 %r10, %r2, 40, 4;", 0x80000000, 0),
        ("bfe.s32 %r10, %r2, 3, 0;", 0xFF, 0),
        ("bfe.u32 %r10, %r2, 0, 32;", 0xDEADBEEF, 0xDEADBEEF),
        ("bfi.b32 %r10, 3, %r2, 4, 2;", 0xF00, 0xF30),
        ("bfi.b32 %r10, -1, %r2, 28, 8;", 0x0, 0xF0000000),
        ("bfi.b32 %r10, -1, %r2, 40, 8;", 0x123, 0x123),
        ("bfi.b32 %r10, 77, %r2, 0, 32;", 0x123, 77),
        ("prmt.b32 %r10, %r2, 0, 291;", 0x44332211, 0x11223344),
        ("prmt.b32 %r10, %r2, 0, 8;", 0x80, 0x808080FF),
        ("lop3.b32 %r10, %r2, 12, 10, 150;", 7, 7 ^ 12 ^ 10),
        ("popc.b32 %r10, %r2;", 0xF0F0, 8),
        ("clz.b32 %r10, %r2;", 1, 31),
        ("brev.b32 %r10, %r2;", 1, 0x80000000),
        ("bfind.u32 %r10, %r2;", 0x100, 8),
        ("bfind.shiftamt.u32 %r10, %r2;", 0x100, 23),
        ("bfind.s32 %r10, %r2;", -1, 0xFFFFFFFF),
        ("rem.s32 %r10, %r2, 7;", -9, -2),
        ("div.s32 %r10, %r2, 7;", -9, -1),
        ("mad.lo.s32 %r10, %r2, 3, -4;", 5, 11),
        ("abs.s32 %r10, %r2;", -5, 5),
        ("add.cc.u32 %r10, %r2, 1; addc.u32 %r10, 7, 0;", 0xFFFFFFFF, 8),
        ("sub.cc.u32 %r10, %r2, 1; subc.u32 %r10, 7, 0;", 0, 6),
        ("setp.lo.u32 %p1, %r2, 5; selp.b32 %r10, 1, 2, %p1;", 0xFFFFFFFF, 2),
        ("setp.lt.s32 %p1, %r2, 5; selp.b32 %r10, 1, 2, %p1;", 0xFFFFFFFF, 1),
    ],
)
def test_integer(instruction: str, value: int, expected: int) -> None:
    assert execute(instruction, integers(value))[0] == expected & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("conversion", "value", "expected"),
    [
        ("cvt.rni.s32.f32 %r10, %f1;", 2.5, 2),
        ("cvt.rzi.s32.f32 %r10, %f1;", -2.9, -2),
        ("cvt.rmi.s32.f32 %r10, %f1;", -2.1, -3),
        ("cvt.rzi.s32.f32 %r10, %f1;", 1e20, 2**31 - 1),
        ("cvt.rzi.u32.f32 %r10, %f1;", -1.0, 0),
        ("cvt.rzi.s32.f32 %r10, %f1;", float("nan"), 0),
        ("cvt.rn.bf16x2.f32 %r10, %f1, 0f3F800000;", 1.0 + 2.0**-8, 0x3F803F80),  # a tie goes to even
        ("cvt.rn.f16x2.f32 %r10, 0f40000000, %f1;", 65536.0, 0x40007C00),
    ],
)
def test_conversion(conversion: str, value: float, expected: int) -> None:
    assert execute(f"mov.b32 %f1, %r2;\n{conversion}", floats(value))[0] == expected & 0xFFFFFFFF


LANE = np.arange(32, dtype=np.uint32)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # lanes 0 to 15 and 16 to 31 vote, reduce, match and shuffle apart
        ("setp.gt.u32 %p2, %r3, 3; vote.sync.ballot.b32 %r10, %p2, %r9;", [0xFFF0] * 16 + [0xFFFF0000] * 16),
        ("redux.sync.add.s32 %r10, %r3, %r9;", [120] * 16 + [376] * 16),
        ("redux.sync.max.u32 %r10, %r3, %r9;", [15] * 16 + [31] * 16),
        (
            "and.b32 %r8, %r3, 1; match.any.sync.b32 %r10, %r8, %r9;",
            [0x5555, 0xAAAA] * 8 + [0x55550000, 0xAAAA0000] * 8,
        ),
        ("match.all.sync.b32 %r10|%p2, %r9, %r9;", [0xFFFF] * 16 + [0xFFFF0000] * 16),
        ("match.all.sync.b32 %r10|%p2, %r3, %r9;", [0] * 32),
        (
            "shfl.sync.bfly.b32 %r10, %r3, 15, 31, %r9;",
            [15 - i for i in range(16)] + [47 - i for i in range(16, 32)],
        ),
        ("shfl.sync.idx.b32 %r10|%p2, %r3, 3, 6175, %r9;", [i // 8 * 8 + 3 for i in range(32)]),
        ("shfl.sync.up.b32 %r10, %r3, 1, 4096, %r9;", [i - 1 if i % 16 else i for i in range(32)]),
        ("shfl.sync.down.b32 %r10, %r3, 1, 4127, %r9;", [i + 1 if i % 16 < 15 else i for i in range(32)]),
    ],
)
def test_partial_member_masks(body: str, expected: list[int]) -> None:
    halves = "setp.lt.u32 %p1, %r3, 16; selp.b32 %r9, 65535, -65536, %p1;\n"
    diverged = halves + f"@!%p1 bra UPPER;\n{body}\nbra.uni DONE;\nUPPER:\n{body}\nDONE:\n"
    for text in (halves + body, diverged):
        assert execute(text, integers(0)).tolist() == expected


def test_an_unknown_instruction_names_its_line() -> None:
    text = HEAD + "wgmma.fence.sync.aligned;" + FOOT
    line = text[: text.index("wgmma")].count("\n") + 1
    with pytest.raises(PtxError, match=rf"PTX line {line}: instruction wgmma is not supported"):
        Machine(text).launch("k", (1,), (32,), bytes(16))


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("add.rna.f32 %f1, %f1, %f1;", "modifier .rna of add"),
        ("fma.rn.f64 %rd6, %rd6, %rd6, %rd6;", "fma.f64"),
        ("ld.global.v8.f32 %f1, [%rd4];", "modifier .v8 of ld"),
        ("bar.sync 1, 64;", "only barrier 0"),
        ("mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f16 {%r4}, {%r4}, {%r4}, {%r4};", "m16n8k16"),
        ("cvt.rn.e4m3x2.f32 %h1, %f1, %f1;", "type .e4m3x2"),
        (".callprototype x;", "directive"),
        ("mov.u32 %r4, %clock;", "unknown operand"),
    ],
)
def test_what_is_not_known_is_an_error(statement: str, why: str) -> None:
    with pytest.raises(PtxError, match=why):
        Machine(HEAD + statement + FOOT).launch("k", (1,), (32,), bytes(16))


def test_device_functions_are_refused() -> None:
    with pytest.raises(PtxError, match="device functions"):
        Module(HEAD + FOOT + ".func f() { ret; }")


def test_wrong_parameter_bytes_are_refused() -> None:
    with pytest.raises(PtxError, match="16 bytes of parameters, not 8"):
        Machine(HEAD + "mov.u32 %r10, 0;" + FOOT).launch("k", (1,), (32,), bytes(8))


def test_approximations_move_by_their_documented_error() -> None:
    body = "mov.b32 %f1, %r2;\nrsqrt.approx.f32 %f2, %f1;\nmov.b32 %r10, %f2;"
    low, exact, high = (execute(body, floats(3.0), Options(approximate=k))[0] for k in (-1, 0, 1))
    assert low < exact < high
    assert int(high) - int(low) <= 4  # units in the last place


def _exact_f32(x: Fraction) -> np.float32:
    """Round to nearest, ties to even, by rational arithmetic."""
    best = np.float32(float(x))
    around = [np.nextafter(best, np.float32(-np.inf)), best, np.nextafter(best, np.float32(np.inf))]
    finite = [f for f in around if np.isfinite(f)]
    return min(finite, key=lambda f: (abs(Fraction(float(f)) - x), int(f.view(np.uint32)) & 1))


F32 = st.floats(-(2.0**40), 2.0**40, width=32)


@settings(max_examples=300, deadline=None)
@given(a=F32, b=F32, c=F32, nudge=st.integers(-2, 2))
def test_fma_rounds_once(a: float, b: float, c: float, nudge: int) -> None:
    """Also where the sum lies a hair beside the middle of two float32 numbers."""
    a = float(np.float32(1 + nudge * 2.0**-23)) if nudge else a
    values = [np.array([v], np.float32) for v in (a, b, c)]
    got = round_f32(fma_to_odd(*values))[0]
    assert got == _exact_f32(Fraction(a) * Fraction(b) + Fraction(c))


@settings(max_examples=200, deadline=None)
@given(x=st.floats(-(2.0**60), 2.0**60))
def test_bfloat16_rounds_once(x: float) -> None:
    bits = round_bf16(np.array([x]))
    got = Fraction(float(bf16_to_f32(bits)[0]))
    step = [
        Fraction(float(bf16_to_f32(np.array([int(bits[0]) + d], np.uint16))[0]))
        for d in (-1, 1)
        if bits[0] & 0x7FFF
    ]
    exact = Fraction(x)
    assert all(abs(got - exact) <= abs(other - exact) for other in step)


def test_mma_layout_against_a_plain_product() -> None:
    """The fragment of every lane, laid out here by the words of the PTX ISA, gives A B + C."""
    rng = np.random.default_rng(1)
    A, B = (rng.integers(-4, 5, shape).astype(np.float16) for shape in ((16, 16), (16, 8)))
    C = rng.integers(-4, 5, (16, 8)).astype(np.float32)
    expected = A.astype(np.float32) @ B.astype(np.float32) + C
    words = np.zeros((32, 10), np.uint32)
    for lane in range(32):
        group, inside = lane >> 2, lane % 4
        for i in range(8):  # a0 .. a7: row group for a0 a1 a4 a5 else group + 8; column by i >= 4
            row = group if i in (0, 1, 4, 5) else group + 8
            column = inside * 2 + (i & 1) + (8 if i >= 4 else 0)
            words[lane, i // 2] |= np.uint32(A[row, column].view(np.uint16)) << np.uint32(16 * (i & 1))
        for i in range(4):  # b0 .. b3: row by i >= 2, column group
            row = inside * 2 + (i & 1) + (8 if i >= 2 else 0)
            words[lane, 4 + i // 2] |= np.uint32(B[row, group].view(np.uint16)) << np.uint32(16 * (i & 1))
        for i in range(4):
            row = group if i < 2 else group + 8
            words[lane, 6 + i] = C[row, inside * 2 + (i & 1)].view(np.uint32)
    registers = "".join(f"ld.global.b32 %r{11 + k}, [%rd6+{4 * k}];\n" for k in range(10))
    for which, (row_shift, odd) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
        text = HEAD.replace("ld.global.b32 %r2, [%rd4];", f"mad.wide.u32 %rd6, %r1, 40, %rd1;\n{registers}")
        text += "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4},"
        text += "{%r11,%r12,%r13,%r14},{%r15,%r16},{%r17,%r18,%r19,%r20};\n"
        machine = Machine(text + f"mov.b32 %r10, %f{which + 1};" + FOOT)
        source = machine.memory.allocate(words.nbytes, words.tobytes())
        out = machine.memory.allocate(128, None)
        assert machine.launch("k", (1,), (32,), struct.pack("<QQ", source, out)) == []
        got = np.frombuffer(machine.memory.read(out, 128), np.float32)
        assert got.tolist() == [expected[(i >> 2) + row_shift, i % 4 * 2 + odd] for i in range(32)]
