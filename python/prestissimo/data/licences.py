# SPDX-License-Identifier: Apache-2.0
"""Which licences may train weights that ship, and a reader of Debian's machine-readable copyright files."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

__all__ = ["TRAINABLE", "CopyrightEntry", "licence_of", "parse_copyright", "spdx", "trainable"]

#: Public domain, CC0, MIT- or BSD-like, CC BY and CC BY-SA. The weights carry CC BY-SA 4.0, to which every
#: one of these may be taken: CC BY-SA 3.0 by its section 4(b) (a later version of the same licence).
TRAINABLE = frozenset(
    {
        "CC0-1.0",
        "LicenseRef-public-domain",
        "MIT",
        "BSD-3-Clause",
        "ISC",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-SA-4.0",
        "LicenseRef-CC-BY",
        "LicenseRef-CC-BY-SA",
        "Apache-2.0",
    }
)

_SPDX = {
    "expat": "MIT",
    "public-domain": "LicenseRef-public-domain",
    "pd": "LicenseRef-public-domain",
    "cc0": "CC0-1.0",
    "cc-by": "LicenseRef-CC-BY",
    "cc-by-sa": "LicenseRef-CC-BY-SA",
    "gpl": "GPL-1.0-or-later",
    "gpl-2": "GPL-2.0-only",
    "gpl-2+": "GPL-2.0-or-later",
    "gpl-3": "GPL-3.0-only",
    "gpl-3+": "GPL-3.0-or-later",
}


def spdx(expression: str) -> str:
    """A Debian licence expression as an SPDX one.

    >>> spdx("GPL-3 or CC-BY-3.0")
    'GPL-3.0-only OR CC-BY-3.0'
    """
    parts = re.split(r"\s+(or|and|OR|AND)\s+", expression.strip())
    return " ".join(p.upper() if i % 2 else _SPDX.get(p.lower(), p) for i, p in enumerate(parts))


def trainable(expression: str) -> bool:
    """Whether one of the offered alternatives, with all that it joins by AND, lies in `TRAINABLE`.

    >>> trainable("GPL-2.0-or-later OR CC-BY-SA-3.0"), trainable("GPL-3.0-only"), trainable("")
    (True, False, False)
    """
    return any(
        all(term.strip("() ") in TRAINABLE for term in choice.split(" AND "))
        for choice in expression.split(" OR ")
    )


@dataclass(frozen=True)
class CopyrightEntry:
    """One Files paragraph: glob patterns, holders and the licence as an SPDX expression."""

    patterns: tuple[str, ...]
    holders: tuple[str, ...]
    licence: str


def parse_copyright(text: str) -> list[CopyrightEntry]:
    """Files paragraphs of a DEP-5 copyright file, in file order.

    Source: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/, sections 4 and 6.
    Raises ValueError where the text does not declare that format.
    """
    if not re.match(r"\s*Format(-Specification)?:", text):
        raise ValueError("text must be a machine-readable copyright file that begins with Format:")
    entries = []
    for block in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, list[str]] = {}
        current: list[str] | None = None
        for line in block.splitlines():
            if line[:1] in (" ", "\t"):
                if current is not None:
                    current.append(line.strip())
            elif match := re.match(r"([A-Za-z-]+):(.*)", line):
                current = fields.setdefault(match[1].lower(), [])
                current.append(match[2].strip())
        if "files" in fields and "license" in fields:
            entries.append(
                CopyrightEntry(
                    tuple(p.removeprefix("./") for p in " ".join(fields["files"]).split()),
                    tuple(h for h in fields.get("copyright", []) if h),
                    spdx(fields["license"][0]),
                )
            )
    return entries


def licence_of(path: str, entries: list[CopyrightEntry]) -> CopyrightEntry | None:
    """The last entry that matches a source path (the format says that the last match rules), or None."""
    found = None
    for entry in entries:
        if any(fnmatch.fnmatchcase(path, p) for p in entry.patterns):
            found = entry
    return found
