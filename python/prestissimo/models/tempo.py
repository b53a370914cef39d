# SPDX-License-Identifier: Apache-2.0
"""tempo.json of a model folder: which words go with which tempo, for prompts that name none."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from prestissimo.atomic import write_bytes
from prestissimo.models.schema import from_json
from prestissimo.tempo import TempoPrior

__all__ = ["TEMPO", "read_tempo_prior", "write_tempo_prior"]

TEMPO = "tempo.json"
MAX_BYTES = 1 << 20


def read_tempo_prior(folder: str | Path) -> TempoPrior | None:
    """What tempo.json of a model folder says, None where there is none. Raises ValueError naming file and entry."""
    path = Path(folder) / TEMPO
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: a table of tempi has at most {MAX_BYTES} bytes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return from_json(TempoPrior, values, str(path))


def write_tempo_prior(folder: str | Path, prior: TempoPrior) -> Path:
    """Write tempo.json, one word a line, so that people can read it and change it."""
    path, values = Path(folder) / TEMPO, asdict(prior)
    words = values.pop("words")
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in values.items()]
    rows = [f"    {json.dumps(word)}: {json.dumps(factors)}" for word, factors in sorted(words.items())]
    text = "\n".join(["{", *lines, '  "words": {', ",\n".join(rows), "  }", "}"])
    write_bytes(path, f"{text}\n".encode(), overwrite=True)
    return path
