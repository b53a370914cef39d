# SPDX-License-Identifier: Apache-2.0
"""Damages of PTX that no run can show, argued from the statements around them.

An argument names what it needs to see; where it sees it, `mutate` enters the mutant into mutation.json with the
argument's text. What has no pattern is argued there by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Holds = Callable[[Sequence[str], int, str], bool]  # statements of the kernel, which is damaged, its new text


@dataclass(frozen=True)
class Argument:
    why: str
    holds: Holds


def _written(statement: str) -> str:
    """The register that a statement writes."""
    m = re.match(r"(?:@\S+ )?\S+ (%\w+)", statement)
    return m.group(1) if m else ""


def _reads(statement: str, register: str) -> bool:
    rest = statement.partition(",")[2]
    return re.search(rf"{re.escape(register)}\b", rest) is not None


def _readers(code: Sequence[str], register: str) -> list[str]:
    return [s for s in code if register and _reads(s, register)]


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
    sums = _readers(code, b)
    if len(sums) != 1 or not re.match(rf"add\.s{width} %\w+, {x}, {b};", sums[0]):
        return False
    c, power = _written(sums[0]), width - by
    return all(
        re.match(rf"shr\.s{width} %\w+, {c}, {power};|and\.b{width} \s*%\w+, {c}, -{1 << power};", s)
        for s in _readers(code, c)
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
            widened = {_written(s) for s in code if s.startswith("cvt.u64.u32 ")}
            return narrow and bool(divided) and divided <= widened
    return False


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
                return len(_readers(code, first.group(2))) == len(_readers(code, second.group(2))) == 1
    return False


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
    Argument("only bit 31 of the sum of two numbers whose low 30 bits are zero is kept", _quadrant),
)


def why_equivalent(code: Sequence[str], at: int, new: str) -> str | None:
    """The argument that a damaged statement cannot be noticed, or None."""
    return next((a.why for a in ARGUMENTS if a.holds(code, at, new)), None)
