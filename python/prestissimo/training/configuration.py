# SPDX-License-Identifier: Apache-2.0
"""The TOML files that `prestissimo train` reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["find_configuration", "read_toml"]


def find_configuration(path: Path | None, kind: str) -> Path:
    """`path`; where there is no such file and a bundled one has its name, that one; None means kind.toml.

    The bundled model was trained with codec.toml, dit.toml, dit_second.toml and dit_third.toml.
    """
    given = Path(f"{kind}.toml") if path is None else path
    bundled = Path(__file__).with_name(given.name)
    if path is None or (given.parent == Path() and not given.exists() and bundled.is_file()):
        return bundled
    return given


def read_toml(path: Path | str, *, steps: int | None = None, **given: Any) -> dict[str, Any]:
    """What the file holds, with `given` entries that are not None in place of its own, `steps` in [loop].

    Raises OSError, or ValueError that names the file.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise ImportError('TOML files need tomli: pip install "prestissimo[train]"') from error
    try:
        values: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise ValueError(f"{path}: {error}") from error
    values |= {name: value for name, value in given.items() if value is not None}
    if steps is not None:
        loop = values.setdefault("loop", {})
        if not isinstance(loop, dict):
            raise ValueError(f"{path}: loop must be a table")
        loop["steps"] = steps
    return values
