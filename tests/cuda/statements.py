# SPDX-License-Identifier: Apache-2.0
"""What a statement of PTX reads and writes, by its text."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence


def written_by(statement: str) -> str:
    """The register that a statement writes."""
    m = re.match(r"(?:@\S+ )?\S+ (%\w+)", statement)
    return m.group(1) if m else ""


def reads(statement: str, register: str) -> bool:
    rest = statement.partition(",")[2]
    return re.search(rf"{re.escape(register)}\b", rest) is not None


def readers_of(code: Sequence[str], register: str) -> list[str]:
    return [s for s in code if register and reads(s, register)]


def writes(statement: str, register: str) -> bool:
    """One of several, too: {%f1, %f2}."""
    m = re.match(r"(?:@\S+ )?\S+ (?:\{([^}]*)\}|(%\w+))", statement)
    return m is not None and register in re.split(r",\s*", m.group(1) or m.group(2) or "")


def number(constant: str) -> float:
    """0f3F800000 is 1.0."""
    return float(struct.unpack(">f", bytes.fromhex(constant[2:]))[0])
