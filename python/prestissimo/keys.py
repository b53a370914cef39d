# SPDX-License-Identifier: Apache-2.0
"""Keys of music: their names and numbers, and the one that a text names.

Number k: tonic k from C in major for k < 12, tonic k - 12 in minor for k < 24; 24 is major and 25 minor on no tonic in
particular.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["MODES", "OPEN", "TONICS", "key_in", "key_name", "key_number"]

TONICS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
MODES = ("major", "minor")
#: Number of a key that is left open.
OPEN = -1

_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}
_SIGN = r"(?:(?P<sign>[#♯b♭])|[\s-](?P<word>sharp|flat))?"
_MODE = r"(?P<mode>major|minor)\b"
_NAMED = re.compile(rf"(?<![\w#♯♭'])(?P<letter>[A-Ga-g]){_SIGN}[\s-](?i:{_MODE})")
# The mode alone counts where no other sense is likely: "in minor", "a minor key", "major-key", not "a major hit".
_ALONE = re.compile(
    rf"\bin (?:(?:a|some|the) )?{_MODE}"
    r"|\b(?P<before>major|minor)[\s-](?:key|mode|scale|tonality|harmon|chord|third)",
    re.IGNORECASE,
)
_BEGINS = re.compile(r"(?:^|[.!?:])\W*$")
_EXACT = re.compile(rf"(?P<letter>[A-G]){_SIGN}[\s-]{_MODE}", re.IGNORECASE)


def key_name(number: int) -> str:
    """The English name of a key.

    >>> [key_name(k) for k in (0, 21, 24)]
    ['C major', 'A minor', 'major']
    """
    if not 0 <= number < 26:
        raise ValueError(f"number must be 0 to 25, got {number}")
    mode = MODES[number // 12] if number < 24 else MODES[number - 24]
    return f"{TONICS[number % 12]} {mode}" if number < 24 else mode


def _number(match: re.Match[str]) -> int:
    sign = match["sign"] or (match["word"] or "").lower()
    tonic = _LETTERS[match["letter"].upper()] + _ACCIDENTALS[sign]
    return tonic % 12 + 12 * MODES.index(match["mode"].lower())


def key_number(name: Any, argument: str = "key") -> int:
    """The number of a key by its name: a letter, an accidental, major or minor; or the mode alone.

    Raises TypeError or ValueError naming the argument.

    >>> [key_number(k) for k in ("A minor", "Eb major", "F sharp minor", "g# minor", "minor")]
    [21, 3, 18, 20, 25]
    """
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be text, got {type(name).__name__}")
    plain = " ".join(name.split())
    if plain.lower() in MODES:
        return 24 + MODES.index(plain.lower())
    match = _EXACT.fullmatch(plain)
    if match is None:
        raise ValueError(
            f'{argument} must be such as "A minor", "E flat major", "F# minor" or "minor", got {name!r}'
        )
    return _number(match)


def key_in(text: str) -> str | None:
    """The first key that a text names, or its mode where it names no tonic; None where it names neither.

    A tonic without accidental counts where its letter is a capital, but for an A that begins a sentence: "a minor key"
    names no tonic.

    >>> [key_in(t) for t in ("a waltz in A minor", "strings in a minor key", "bebop in Bb major", "a major hit")]
    ['A minor', 'minor', 'B flat major', None]
    """
    for match in _NAMED.finditer(text):
        accidental = bool(match["sign"] or match["word"])
        article = match["letter"] == "A" and _BEGINS.search(text[: match.start()])
        if accidental or (match["letter"].isupper() and not article):
            return key_name(_number(match))
    alone = _ALONE.search(text)
    return (alone["mode"] or alone["before"]).lower() if alone else None
