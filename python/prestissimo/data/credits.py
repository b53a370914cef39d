# SPDX-License-Identifier: Apache-2.0
"""The credits that weights trained on this data must carry: every author, licence and title."""

from __future__ import annotations

from collections.abc import Iterable

from prestissimo.data.sources import SOURCES
from prestissimo.data.store import StoredTrack

__all__ = ["LICENCE_URLS", "credits"]

LICENCE_URLS = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "MIT": "https://spdx.org/licenses/MIT.html",
    "BSD-3-Clause": "https://spdx.org/licenses/BSD-3-Clause.html",
}
_EVIDENCE = {r.author: r.evidence for s in SOURCES for r in s.rules} | {
    "Freedoom contributors": "debian/copyright, Files: *: freedoom-license, the text of BSD-3-Clause",
    "Louis J. Barman": "debian/copyright, Files: music/*: CC-BY, without a version; "
    "its text points to CC0-1.0 and to CC 4.0",
}


def credits(tracks: Iterable[StoredTrack]) -> str:
    """Markdown: one paragraph for each package, author and licence of the tracks, with the titles.

    Pass the tracks of the training split; our own renderings are counted, not listed.
    """
    groups: dict[tuple[str, str, str], list[StoredTrack]] = {}
    for t in tracks:
        groups.setdefault((t.package, t.author, t.licence), []).append(t)
    lines = ["# Music that the weights were trained on", ""]
    for package, author, licence in sorted(groups):
        found = groups[package, author, licence]
        hours = sum(t.seconds for t in found) / 3600
        names = [
            f"[{n}]({LICENCE_URLS[n]})" if n in LICENCE_URLS else n.replace("LicenseRef-", "")
            for n in licence.split(" OR ")
        ]
        lines.append(f"**{author}** ({package}, {' or '.join(names)}, {hours:.2f} h). ")
        if package == "rendered":
            lines.append(f"{len(found)} pieces composed by the package itself, rendered with FluidR3 (MIT).")
        else:
            lines.append("; ".join(sorted(t.title for t in found)) + ".")
        evidence = _EVIDENCE.get(author)
        lines += [f"Terms: {evidence}.", ""] if evidence else [""]
    lines.append(
        "All were resampled, trimmed and levelled. Packages are those of Debian 12. Hours and titles are those of"
    )
    lines.append("the data set as it is built now; a model's card says what its weights heard.")
    return "\n".join(lines) + "\n"
