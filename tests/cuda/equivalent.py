# SPDX-License-Identifier: Apache-2.0
"""Damages of PTX that no run can show, argued from the statements around them.

An argument names what it needs to see; where it sees it, `mutate` enters the mutant into mutation.json with the
argument's text. What has no pattern is argued there by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .statements import number, readers_of, writes, written_by

Holds = Callable[[Sequence[str], int, str], bool]  # statements of the kernel, which is damaged, its new text


@dataclass(frozen=True)
class Argument:
    why: str
    holds: Holds
    sixteen_bits: bool = False  # only where what the kernel stores is rounded to 16 bits


def _shift_by_the_width(code: Sequence[str], at: int, new: str) -> bool:
    return re.match(r"shr\.s(64 \S+, \S+ 64|32 \S+, \S+ 32);", new) is not None


def _sign_of_a_size(code: Sequence[str], at: int, new: str) -> bool:
    """shr.s A, X, w - 1; shr.u B, A, w - m; add C, X, B; and C is only shifted by m or masked."""
    m = re.match(r"shr\.u(64|32) (%\w+), (%\w+), (\d+);", code[at])
    if not m:
        return False
    width, b, a, by = int(m.group(1)), m.group(2), m.group(3), int(m.group(4))
    sign = [s for s in code[max(0, at - 6) : at] if re.match(rf"shr\.s{width} {a}, %\w+, {width - 1};", s)]
    if not sign:
        return False
    x = sign[-1].split(", ")[1]
    sums = readers_of(code, b)
    if len(sums) != 1 or not re.match(rf"add\.s{width} %\w+, {x}, {b};", sums[0]):
        return False
    c, power = written_by(sums[0]), width - by
    return all(
        re.match(rf"shr\.[su]{width} %\w+, {c}, {power};|and\.b{width} \s*%\w+, {c}, -{1 << power};", s)
        for s in readers_of(code, c)
    )


def _two_divisions(code: Sequence[str], at: int, new: str) -> bool:
    """and.b64 H, X, -2^32; setp.eq.s64 P, H, 0; @P bra: the damaged statement is one of the three, and what is divided
    was a number of 32 bits."""
    for k in range(max(0, at - 2), at + 1):
        three = code[k : k + 3]
        h = re.match(r"and\.b64 (%\w+), %\w+, -4294967296;", three[0])
        p = h and len(three) == 3 and re.match(rf"setp\.(?:eq|ne)\.s64 (%\w+), {h.group(1)}, 0;", three[1])
        if p and re.match(rf"@!?{p.group(1)} bra ", three[2]):
            around = code[k + 3 : k + 14]
            wide = [s for s in around if re.match(r"(div|rem)\.[su]64 ", s)]
            narrow = any(re.match(r"(div|rem)\.u32 ", s) for s in around)
            divided = {s.split(", ")[1] for s in wide}
            widened = {written_by(s) for s in code if s.startswith("cvt.u64.u32 ")}
            return narrow and bool(divided) and divided <= widened
    return False


def _wider_division(code: Sequence[str], at: int, new: str) -> bool:
    """and.b64 H, X, -2^32; setp.eq.s64 P, H, 0; @P bra to a division of 32 bits: more of H's bits are set."""
    three = code[at : at + 3]
    h = re.match(r"and\.b64 (%\w+), (%\w+), -4294967296;", three[0])
    if not h or new not in (f"or.b64 {three[0][8:]}", three[0].replace("-4294967296", "-4294967295")):
        return False
    p = len(three) == 3 and re.match(rf"setp\.eq\.s64 (%\w+), {h.group(1)}, 0;", three[1])
    wide, narrow = (
        [k for k, s in enumerate(code[at + 3 : at + 14]) if re.match(rf"(div|rem)\.{kind} ", s)]
        for kind in ("[su]64", "u32")
    )
    return bool(p and wide and narrow and wide[0] < narrow[0]) and three[2].startswith(
        f"@{p.group(1) if p else ''} bra "
    )


def _quadrant(code: Sequence[str], at: int, new: str) -> bool:
    """and B, A, -2^30; add C, B, 2^30; and D, C, -2^31: a one in the lowest bit of B or C reaches no bit of D; in D
    it meets a bit that is zero."""
    for k in range(max(0, at - 2), at + 1):
        found = [re.match(r"(and\.b32|add\.s32) (%\w+), (%\w+), (-?\d+);", s) for s in code[k : k + 3]]
        first, second, third = (*found, None, None, None)[:3]
        if first and second and third and at - k < 3:
            chained = second.group(3) == first.group(2) and third.group(3) == second.group(2)
            numbers = tuple(m.group(4) for m in (first, second, third))
            plus_one = new.endswith(f"{int(numbers[at - k]) + 1};")
            if chained and plus_one and numbers == ("-1073741824", "1073741824", "-2147483648"):
                return len(readers_of(code, first.group(2))) == len(readers_of(code, second.group(2))) == 1
    return False


_LESS = {"lt": True, "le": True, "gt": False, "ge": False}


def _clamps(code: Sequence[str], compared: int, a: str, at: float) -> set[str]:
    """Registers that are A clamped by a constant K from below or above, and are A where it is the number `at`:
    setp.lt.f32 P, A, K; selp.f32 R, K, A, P, or with >. P and R are written once, and A not between these two and the
    statement `compared`."""
    found = set()
    for k, s in enumerate(code):
        select = re.match(rf"selp\.f32 (%\w+), (0f\w+), {re.escape(a)}, (%\w+);", s)
        if not select:
            continue
        r, limit, p = select.groups()
        decided = [i for i, t in enumerate(code) if writes(t, p)]
        if len(decided) != 1 or len([t for t in code if writes(t, r)]) != 1:
            continue
        below = re.match(rf"setp\.(lt|le|gt|ge)\.f32 {p}, {re.escape(a)}, {limit};", code[decided[0]])
        between = code[min(k, decided[0], compared) : max(k, decided[0], compared)]
        if not below or any(writes(t, a) for t in between):
            continue
        if at != number(limit) and (at > number(limit)) == _LESS[below.group(1)]:
            found.add(r)
    return found


def _choice_between_equals(code: Sequence[str], at: int, new: str) -> bool:
    """setp.lt P, A, B with < for <= or > for >=, where P only selects between A and B; of floats B is a constant that
    is not zero, and A may have been clamped before by another constant, which leaves B as it is."""
    m = re.match(r"setp\.(lt|le|gt|ge)\.([sfu])(?:32|64) (%\w+), (%\w+), ([%\w-]+);", code[at])
    n = re.match(r"setp\.(lt|le|gt|ge)\.", new)
    if not m or not n or {m.group(1), n.group(1)} not in ({"lt", "le"}, {"gt", "ge"}):
        return False
    p, a, b = m.group(3), m.group(4), m.group(5)
    if m.group(2) == "f" and (not b.startswith("0f") or b in ("0f00000000", "0f80000000")):
        return False
    of_a = {a} | (_clamps(code, at, a, number(b)) if m.group(2) == "f" else set())
    readers = [s for s in code if re.search(rf"{re.escape(p)}\b", s) and s != code[at]]
    selected = [re.match(rf"selp\.\S+ %\w+, (\S+), (\S+), {re.escape(p)};", s) for s in readers]
    pairs = [{s.group(1), s.group(2)} for s in selected if s]
    return bool(pairs) and len(pairs) == len(readers) and all(b in q and q - {b} <= of_a for q in pairs)


def _rounding_of_a_power(code: Sequence[str], at: int, new: str) -> bool:
    """add.s32 A, B, 1065353216, with one more; mov.b32 F, A: 2^k becomes 2^k (1 + 2^-23)."""
    m = re.match(r"add\.s32 (%\w+), (%\w+), 1065353216;", code[at])
    if not m or not new.endswith(" 1065353217;"):
        return False
    shifted = any(re.match(rf"shl\.b32 {m.group(2)}, %\w+, 23;", s) for s in code[:at])
    readers = readers_of(code, m.group(1))
    return (
        shifted and len(readers) == 1 and re.match(rf"mov\.b32 %f\w*, {m.group(1)};", readers[0]) is not None
    )


def _split_of_a_power(code: Sequence[str], at: int, new: str) -> bool:
    """shr.s32 H, S, 1, by one more, where H and J - H alone are used, as the exponents of two factors."""
    m = re.match(r"shr\.s32 (%\w+), %\w+, 1;", code[at])
    if not m or not new.endswith(", 2;"):
        return False
    readers = readers_of(code, m.group(1))
    rest = [r for r in (re.match(rf"sub\.s32 (%\w+), %\w+, {m.group(1)};", s) for s in readers) if r]
    powers = [s for s in readers if re.match(rf"shl\.b32 %\w+, {m.group(1)}, 23;", s)]
    others = [s for r in rest for s in readers_of(code, r.group(1))]
    return len(readers) == 2 == len(rest) + len(powers) and all(
        re.match(r"shl\.b32 \S+ \S+ 23;", s) for s in others
    )


def _sign_of_a_square(code: Sequence[str], at: int, new: str) -> bool:
    """and.b32 A, Q, 2; setp.eq.s32 P, A, 0; neg.f32 N, S; selp.f32 R, S, N, P; and R is only multiplied by itself."""
    four = code[at : at + 4]
    m = re.match(r"and\.b32 (%\w+), %\w+, 2;", four[0])
    p = m and len(four) == 4 and re.match(rf"setp\.(?:eq|ne)\.s32 (%\w+), {m.group(1)}, 0;", four[1])
    n = p and re.match(r"neg\.f32 (%\w+), (%\w+);", four[2])
    r = p and n and re.match(rf"selp\.f32 (%\w+), {n.group(2)}, {n.group(1)}, {p.group(1)};", four[3])
    if not r or len(readers_of(code, m.group(1) if m else "")) != 1:
        return False
    return all(
        re.match(rf"mul\.f32 %\w+, {r.group(1)}, {r.group(1)};", s) for s in readers_of(code, r.group(1))
    )


def _barrier_before_the_end(code: Sequence[str], at: int, new: str) -> bool:
    return code[at] == "bar.sync 0;" and not new and code[at + 1 : at + 2] == ["ret;"]


def _power_of_an_exponential(code: Sequence[str], at: int, new: str) -> bool:
    """fma.rn.f32 A, X, log2(e) / 252, 1/2; cvt.sat.f32.f32 B, A: the first of the two without its addend."""
    fma = re.match(r"fma\.rn\.f32 (%\w+), (%\w+), (%\w+), (%\w+);", code[at])
    if not fma or not new.startswith(f"mul.f32 {fma.group(1)}, {fma.group(2)}, {fma.group(3)};"):
        return False
    constants = (f"mov.f32 {fma.group(3)}, 0f3BBB989D;", f"mov.f32 {fma.group(4)}, 0f3F000000;")
    saturated = re.match(rf"cvt\.sat\.f32\.f32 %\w+, {fma.group(1)};", "".join(code[at + 1 : at + 2]))
    return saturated is not None and all(c in code[:at] for c in constants)


def _slot_of_a_warp(code: Sequence[str], at: int, new: str) -> bool:
    """shr.u32 A, thread, 3; and.b32 B, A, 536870908, where B is a part of addresses that are stored to alone."""
    m = re.match(r"and\.b32 (%\w+), (%\w+), 536870908;", code[at])
    if not m or not new.endswith(" 536870909;"):
        return False
    shifted = any(re.match(rf"shr\.u32 {m.group(2)}, %\w+, 3;", s) for s in code[:at])
    sums = readers_of(code, m.group(1))
    stores = [s for each in sums for s in code if re.search(rf"\[{re.escape(written_by(each))}\b", s)]
    return (
        shifted
        and bool(stores)
        and all(s.startswith("add.s32 ") and len(readers_of(code, written_by(s))) == 0 for s in sums)
        and all(re.match(r"(@\S+ )?st\.shared\.", s) for s in stores)
    )


def _clamp_from_below(code: Sequence[str], at: int, new: str) -> bool:
    """setp.lt.s64 P, X, 0; min.s64 M, X, N; selp.b64 R, 0, M, P: a number clamped to what there is, with <= for <."""
    m = re.match(r"setp\.lt\.s64 (%\w+), (%\w+), 0;", code[at])
    if not m or new != code[at].replace(".lt.", ".le."):
        return False
    p, x = m.groups()
    readers = [s for s in code if re.search(rf"{p}\b", s) and s != code[at]]
    least = {written_by(s) for s in code if re.match(rf"min\.s64 %\w+, (?:{x}, %\w+|%\w+, {x});", s)}
    select = re.match(rf"selp\.b64 %\w+, 0, (%\w+), {p};", "".join(readers[:1]))
    return len(readers) == 1 and select is not None and select.group(1) in least


def _split_of_a_logarithm(code: Sequence[str], at: int, new: str) -> bool:
    """add.s32 B, X, -1059760811; and.b32 E, B, -2^23; sub.s32 M, X, E; cvt.rn.f32.s32 F, E (logf): the first with one
    more, or the mask with its lowest bit."""
    for k in range(max(0, at - 1), at + 1):
        first = re.match(r"add\.s32 (%\w+), (%\w+), -1059760811;", code[k])
        mask = first and re.match(
            rf"and\.b32 \s*(%\w+), {first.group(1)}, -8388608;", "".join(code[k + 1 : k + 2])
        )
        if not first or not mask or len(readers_of(code, first.group(1))) != 1:
            continue
        readers = readers_of(code, mask.group(1))
        apart = [s for s in readers if re.match(rf"sub\.s32 %\w+, {first.group(2)}, {mask.group(1)};", s)]
        whole = [s for s in readers if re.match(rf"cvt\.rn\.f32\.s32 %\w+, {mask.group(1)};", s)]
        if len(apart) == len(whole) == 1 and len(readers) == 2:
            return new == code[at].replace(*(("0811;", "0810;") if at == k else ("8608;", "8607;")))
    return False


def _mask_after_a_shift(code: Sequence[str], at: int, new: str) -> bool:
    """shl A, X, n; and B, A, m, m even, with one more."""
    m = re.match(r"and\.b(32|64) \s*%\w+, (%\w+), (-?\d+);", code[at])
    if not m or int(m.group(3)) % 2 or new != code[at].replace(f" {m.group(3)};", f" {int(m.group(3)) + 1};"):
        return False
    written = [s for s in code if written_by(s) == m.group(2)]
    return (
        len(written) == 1 and re.match(rf"shl\.b{m.group(1)} %\w+, %\w+, [1-9]\d*;", written[0]) is not None
    )


def _beside_a_bound(code: Sequence[str], at: int, new: str) -> bool:
    """setp.gt.f32 P, U, 2e-6; and the setp.lt.f32 Q, U, 1 - 2e-6 beside it: with >= or <= (PowerLink)."""
    both = "\n".join(code[max(0, at - 1) : at + 2])
    u = re.search(r"setp\.lt\.f32 %\w+, (%\w+), 0f3F7FFFDE;\nsetp\.gt\.f32 %\w+, (%\w+), 0f360637BD;", both)
    equal = {code[at].replace(f".{a}.", f".{b}.") for a, b in (("lt", "le"), ("gt", "ge"))} - {code[at]}
    return u is not None and u.group(1) == u.group(2) and new in equal


def _sign_of_a_half(code: Sequence[str], at: int, new: str) -> bool:
    """shr.u32 A, X, 31; add.s32 B, X, A; shr.s32 C, B, 1, the first by 32; A and B are used there alone."""
    m = re.match(r"shr\.u32 (%\w+), (%\w+), 31;", code[at])
    if not m or not new.endswith(", 32;") or len(readers_of(code, m.group(1))) != 1:
        return False
    total = re.match(rf"add\.s32 (%\w+), {m.group(2)}, {m.group(1)};", readers_of(code, m.group(1))[0])
    halves = readers_of(code, total.group(1)) if total else []
    return len(halves) == 1 and re.match(r"shr\.s32 %\w+, %\w+, 1;", halves[0]) is not None


def _subnormal_base(code: Sequence[str], at: int, new: str) -> bool:
    """setp.lt.f32 P, X, 2^-126; mul.f32 A, X, 2^23; selp.f32 B, A, X, P; selp.f32 C, -23, 0, P (logf): the comparison
    with <=; in a kernel that holds 2e-6, which is PowerLink's, the product as a sum."""
    for k in range(max(0, at - 1), at + 1):
        less = re.match(r"setp\.lt\.f32 (%\w+), (%\w+), 0f00800000;", code[k])
        three = code[k + 1 : k + 4]
        product = less and re.match(rf"mul\.f32 (%\w+), {less.group(2)}, 0f4B000000;", "".join(three[:1]))
        if not less or not product:
            continue
        p, x, a = less.group(1), less.group(2), product.group(1)
        scaled = re.match(rf"selp\.f32 %\w+, {a}, {x}, {p};", "".join(three[1:2]))
        taken = re.match(rf"selp\.f32 %\w+, 0fC1B80000, 0f00000000, {p};", "".join(three[2:3]))
        if scaled and taken:
            if at == k:
                return new == code[at].replace(".lt.", ".le.")
            power = any(re.match(r"setp\.\w+\.f32 %\w+, %\w+, 0f360637BD;", s) for s in code)
            return power and new == code[at].replace("mul.", "add.")
    return False


def _one_of_tanh(code: Sequence[str], at: int, new: str) -> bool:
    """setp.ge.f32 P, |x|, 9.01, with >; selp.f32 R, 1, 1 - 2 / (e^2|x| + 1), P (tanhf)."""
    m = re.match(r"setp\.ge\.f32 (%\w+), %\w+, 0f41102CB4;", code[at])
    if not m or new != code[at].replace(".ge.", ".gt."):
        return False
    return (
        re.match(rf"selp\.f32 %\w+, 0f3F800000, %\w+, {m.group(1)};", "".join(code[at + 1 : at + 2]))
        is not None
    )


ARGUMENTS = (
    Argument(
        "PTX clamps a shift: by the width or by one less, an arithmetic shift leaves the sign",
        _shift_by_the_width,
    ),
    Argument(
        "the quotient of a size or an index, which is never negative, by a power of two: its sign, zero, is shifted",
        _sign_of_a_size,
    ),
    Argument(
        "chooses between a division of 64 bits and one of 32, which give the same quotient below 2^32: what is divided "
        "has 32 bits, and what it is divided by is a size that is at most the number of blocks",
        _two_divisions,
    ),
    Argument(
        "divides by the instruction of 64 bits where that of 32 would have done, which gives the same quotient",
        _wider_division,
    ),
    Argument(
        "the smaller or the larger of two numbers: where the comparisons differ the two are equal",
        _choice_between_equals,
    ),
    Argument(
        "e^x is computed as 2^j 2^(x log2 e - j), the same for every whole j: with another, within the exponents of "
        "float32, the second exponent lies below 128, and its two roundings move e^x by 5.3e-6 of itself at most; "
        "float16 rounds by 4.9e-4 of it",
        _power_of_an_exponential,
        sixteen_bits=True,
    ),
    Argument(
        "2^k with its last bit set: 1.2e-7 of the product, where float16 rounds by 4.9e-4",
        _rounding_of_a_power,
        sixteen_bits=True,
    ),
    Argument("2^j is made of two factors, and another split of j gives the same product", _split_of_a_power),
    Argument("only the square of the sine is used, and not its sign", _sign_of_a_square),
    Argument("nothing is read or written after this barrier", _barrier_before_the_end),
    Argument(
        "a warp's lane 0 alone stores there (reduce.cuh): its thread's index is a multiple of 32, and the bit let "
        "through is zero",
        _slot_of_a_warp,
    ),
    Argument("the half of an index, which is never negative: its sign is zero", _sign_of_a_half),
    Argument("where |x| is 9.01 itself, tanh x and what approximates it are 1 in float32", _one_of_tanh),
    Argument("what is masked has been shifted left: the bit let through is zero", _mask_after_a_shift),
    Argument(
        "the slope of a score that lies on the very number from which on it counts as at its bound, where the slope is "
        "none: either stands for it",
        _beside_a_bound,
    ),
    Argument(
        "what ln x does below 2^-126: that number itself has the same logarithm scaled by 2^23 or not; a score so "
        "little above the lower bound counts as on it, and its value u^(q - 1) u is next to 0 with the power that a "
        "wrong logarithm gives",
        _subnormal_base,
    ),
    Argument(
        "at 0 itself both choices are 0: the size that clamps from above is never negative", _clamp_from_below
    ),
    Argument(
        "ln x = e ln 2 + ln m: where m begins, one float beside 2/3, or one unit of its last place given to e, moves "
        "it by 1.2e-7, where float16 rounds by 4.9e-4",
        _split_of_a_logarithm,
        sixteen_bits=True,
    ),
    Argument("only bit 31 of the sum of two numbers whose low 30 bits are zero is kept", _quadrant),
)


# They read 16 bits and store sums in float32.
_SUMS_IN_FLOAT32 = (
    "hidden_variance_moments",
    "info_nce_factors",
    "info_nce_tiles",
    "segment_similarity_gradient",
    "squared_norm_blocks",
)


def stores_16_bits(kernel: str) -> bool:
    """By its name, as the kernels are called: snake_rows_f16_x8; not gated_residual_rows_f32_f16_x1."""
    named = re.search(r"_b?f16(_|$)", kernel) is not None and "_f32" not in kernel
    return named and not kernel.startswith(_SUMS_IN_FLOAT32)


def why_equivalent(kernel: str, code: Sequence[str], at: int, new: str) -> str | None:
    """The argument that a damaged statement of a kernel cannot be noticed, or None."""
    arguments = (a for a in ARGUMENTS if stores_16_bits(kernel) or not a.sixteen_bits)
    return next((a.why for a in arguments if a.holds(code, at, new)), None)
