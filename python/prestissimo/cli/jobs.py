# SPDX-License-Identifier: Apache-2.0
"""From command-line options to a list of (request, output file), with every mistake found before any work."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prestissimo import atomic, audio
from prestissimo.request import Request, item_seeds

__all__ = ["Job", "Row", "make_folder", "plan", "read_prompts"]

MAX_PROMPTS = 100_000


@dataclass(frozen=True)
class Job:
    """One file to make: path None stands for standard output."""

    request: Request
    path: Path | None
    format: audio.AudioFormat
    picture: Path | None

    def with_request(self, request: Request) -> Job:
        return replace(self, request=request)


@dataclass(frozen=True)
class Row:
    """One line of a prompts file: what it sets of a request, and where it stands, for messages."""

    fields: dict[str, Any]
    where: str


_COLUMNS: dict[str, Callable[[str], Any]] = {
    "prompt": str,
    "seconds": float,
    "seed": int,
    "negative_prompt": str,
    "bpm": float,
    "steps": int,
    "guidance": float,
    "sampler": str,
    "strength": float,
}


def read_prompts(path: Path) -> list[Row]:
    """A text file of one prompt a line (blank lines and lines that begin with # are skipped), or a CSV file
    with a header: a `prompt` column and any of seconds, seed, negative_prompt, bpm, steps, guidance,
    sampler, strength.

    Raises OSError, or ValueError with file and line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from error
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _text_rows(path, text)
    if not rows:
        raise ValueError(f"{path}: holds no prompts")
    if len(rows) > MAX_PROMPTS:
        raise ValueError(f"{path}: holds {len(rows)} prompts, at most {MAX_PROMPTS} are taken at once")
    return rows


def _text_rows(path: Path, text: str) -> list[Row]:
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [Row({"prompt": s}, f"{path}:{n}") for n, s in lines if s and not s.startswith("#")]


def _csv_rows(path: Path, text: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        columns = [c.strip().lower() for c in reader.fieldnames or []]
        reader.fieldnames = columns
        if "prompt" not in columns:
            raise ValueError(f"{path}: the first line must name a column 'prompt'")
        unknown = [c for c in columns if c not in _COLUMNS]
        if unknown or len(set(columns)) < len(columns):
            raise ValueError(
                f"{path}: columns must be distinct and among {', '.join(_COLUMNS)}, got {columns}"
            )
        for record in reader:
            where = f"{path}:{reader.line_num}"
            if None in record or None in record.values():
                raise ValueError(f"{where}: has not as many fields as the first line")
            fields = {}
            for name, value in record.items():
                if value.strip():
                    try:
                        fields[name] = _COLUMNS[name](value.strip())
                    except ValueError:
                        raise ValueError(f"{where}: {name} must be a number, got {value!r}") from None
            if fields:
                rows.append(Row(fields, where))
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from error
    return rows


def plan(
    rows: Sequence[Row],
    options: Mapping[str, Any],
    *,
    seed: int,
    output: str,
    number: int = 1,
    format: str | None = None,
    bit_depth: str | None = None,
    plot: bool = False,
    overwrite: bool = False,
) -> list[Job]:
    """One job per row and per repetition.

    `options` holds the fields of a `Request` that the command line sets; a row's own fields win. Items
    without a seed of their own count up from `seed`. One item goes to `output` itself, several to output-1,
    output-2, or into the folder that `output` is (or ends in a slash) as prompt-seed. Raises ValueError or
    OSError.
    """
    if number < 1:
        raise ValueError(f"num must be 1 or more, got {number}")
    requests = []
    for row, first in zip(rows, item_seeds(seed, len(rows) * number)[::number], strict=True):
        fields = {_FIELDS.get(k, k): v for k, v in row.fields.items()}
        try:
            for one in item_seeds(fields.pop("seed", first), number):
                requests.append(Request(**{**options, **fields, "seed": one}))
        except (TypeError, ValueError) as error:
            text = _ARGUMENTS.sub(lambda match: _OPTIONS[match[0]], str(error))
            raise ValueError(f"{row.where}: {text}" if row.where else text) from error
    return _with_paths(requests, output, format, bit_depth, plot, overwrite)


# columns whose names in `Request` differ; options whose names differ from diffusers' words, which errors use
_FIELDS = {"strength": "init_strength"}
_OPTIONS = {"num_inference_steps": "steps", "guidance_scale": "guidance", "init_strength": "strength"}
_ARGUMENTS = re.compile("|".join(_OPTIONS))


def _with_paths(
    requests: Sequence[Request],
    output: str,
    format: str | None,
    depth: str | None,
    plot: bool,
    overwrite: bool,
) -> list[Job]:
    if not output:
        raise ValueError("output must be a file, a folder, or - for standard output")
    if output == "-":
        if len(requests) > 1:
            raise ValueError(
                f"standard output takes one piece, {len(requests)} were asked for: give -o a folder"
            )
        if plot:
            raise ValueError("--plot needs a file to stand beside: give -o a file")
        kind = audio.format_for("", format or "wav")
        audio.check_bit_depth(kind, depth)
        return [Job(requests[0], None, kind, None)]

    folder = output.endswith(("/", os.sep)) or Path(output).is_dir()
    if not folder and not format and not Path(output).suffix:
        raise ValueError(
            f"cannot tell the audio format of {output!r}: end a file's name in .wav, a folder's in /, or give --format"
        )
    kind = audio.format_for("", format or "wav") if folder or format else audio.format_for(output)
    suffix = Path(output).suffix.lower()
    if (
        not folder
        and suffix not in kind.suffixes
        and any(suffix in f.suffixes for f in audio.FORMATS.values())
    ):
        raise ValueError(
            f"format {kind.name} does not go with the name {output!r}: end it in {kind.suffixes[0]}"
        )
    audio.check_bit_depth(kind, depth)
    new = folder and not Path(output).is_dir()
    if new and Path(output).exists():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", output)
    if new:
        atomic.check_destination(Path(output))
    width = len(str(len(requests)))
    jobs, taken = [], set()
    for i, request in enumerate(requests, 1):
        if folder:
            stem = f"{_slug(request.prompt)}-{request.seed}"
            if stem in taken:  # one prompt and seed with other settings
                stem = f"{stem}-{i:0{width}d}"
            taken.add(stem)
            path = Path(output) / f"{stem}{kind.suffixes[0]}"
        elif len(requests) > 1:
            path = Path(output).with_stem(f"{Path(output).stem}-{i:0{width}d}")
        else:
            path = Path(output)
        picture = path.with_suffix(".png") if plot else None
        for file in () if new else (path, picture):
            if file is not None:
                atomic.check_destination(file, overwrite=overwrite)
        jobs.append(Job(request, path, kind, picture))
    return jobs


def make_folder(jobs: Sequence[Job]) -> None:
    """Makes the folder that the jobs are written into, if it is new; called once nothing else can be wrong."""
    for folder in {job.path.parent for job in jobs if job.path is not None}:
        folder.mkdir(exist_ok=True)


def _slug(prompt: str) -> str:
    """The prompt as part of a file name: letters and digits of any script, at most 60 bytes.

    >>> _slug("Calm solo piano, in a minor key!")
    'calm-solo-piano-in-a-minor-key'
    """
    words = "-".join(re.findall(r"\w+", prompt.lower()))
    return words.encode()[:60].decode(errors="ignore").strip("-_") or "music"
