# SPDX-License-Identifier: Apache-2.0
"""The fixed prompts of the evaluation: written before training and in no caption."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

KINDS = ("tag", "tempo", "pair")
_COLUMNS = ["id", "kind", "label", "pair", "bpm", "prompt"]


@dataclass(frozen=True)
class Prompt:
    """One line of the table.

    Attributes:
        id: unique; file names of generated clips begin with it.
        kind: ``tag``, ``tempo`` or ``pair``.
        label: the tag; ``tempo``; or ``attribute:value`` of a pair.
        pair: names the two prompts that differ in one attribute alone.
        bpm: the tempo asked for, 0 where none is.
        text: the prompt.
    """

    id: str
    kind: str
    label: str
    pair: str
    bpm: float
    text: str

    @property
    def tag(self) -> str | None:
        return self.label if self.kind == "tag" else None

    @property
    def attribute(self) -> str:
        return self.label.partition(":")[0]

    @property
    def value(self) -> str:
        return self.label.partition(":")[2]


def read_prompts(path: str | os.PathLike[str]) -> list[Prompt]:
    """Prompts of a tab-separated file with the columns id, kind, label, pair, bpm, prompt.

    Raises ValueError naming the line for a missing column, an unknown kind, a repeated id or a bad tempo.
    """
    return _parse(Path(path).read_text(encoding="utf-8"), str(path))


@lru_cache(maxsize=1)
def _bundled() -> tuple[Prompt, ...]:
    text = (files("prestissimo.metrics") / "prompts.tsv").read_text(encoding="utf-8")
    return tuple(_parse(text, "prompts.tsv"))


def fixed_prompts(kind: str | None = None) -> list[Prompt]:
    """The bundled prompts, of one kind where given: 10 tags x 20 wordings, 60 tempi, 7 x 20 pairs.

    >>> len(fixed_prompts("tag")), len(fixed_prompts("tempo")), len(fixed_prompts("pair"))
    (200, 60, 280)
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return [p for p in _bundled() if kind in (None, p.kind)]


def wordings_per_tag(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The first ``count`` wordings of each tag, in the prompts' order."""
    seen: dict[str, int] = {}
    chosen = []
    for prompt in prompts:
        if prompt.kind == "tag":
            seen[prompt.label] = seen.get(prompt.label, 0) + 1
            if seen[prompt.label] <= count:
                chosen.append(prompt)
    return chosen


def _parse(text: str, name: str) -> list[Prompt]:
    reader = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    if reader.fieldnames != _COLUMNS:
        raise ValueError(f"{name}: the first line must be the columns {', '.join(_COLUMNS)}")
    prompts: list[Prompt] = []
    ids: set[str] = set()
    for row in reader:
        where = f"{name}:{reader.line_num}"
        if None in row or None in row.values() or not row["prompt"].strip():
            raise ValueError(f"{where}: a line needs {len(_COLUMNS)} fields and a prompt")
        if row["kind"] not in KINDS:
            raise ValueError(f"{where}: kind must be one of {', '.join(KINDS)}, got {row['kind']!r}")
        if row["id"] in ids or not row["id"].replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"{where}: id must be unique letters, digits and dashes, got {row['id']!r}")
        try:
            bpm = float(row["bpm"] or 0)
        except ValueError:
            raise ValueError(f"{where}: bpm must be a number, got {row['bpm']!r}") from None
        if row["kind"] == "tempo" and not 20 <= bpm <= 400:
            raise ValueError(f"{where}: bpm must be 20 to 400, got {bpm:g}")
        if row["kind"] == "pair" and not (row["pair"] and ":" in row["label"]):
            raise ValueError(f"{where}: a pair needs its name and a label attribute:value")
        ids.add(row["id"])
        prompts.append(Prompt(row["id"], row["kind"], row["label"], row["pair"], bpm, row["prompt"].strip()))
    if not prompts:
        raise ValueError(f"{name}: holds no prompts")
    return prompts
