# SPDX-License-Identifier: Apache-2.0
"""Dataclasses from JSON that nobody vouches for: every name and type is checked, errors name the place."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["from_json"]

T = TypeVar("T")


def from_json(cls: type[T], values: Any, where: str) -> T:
    """An instance of the dataclass `cls`, nested ones included, of what `json.loads` gave.

    Lists become tuples and whole numbers floats where a field wants that. Raises ValueError for a missing or
    unknown name, another type, or what `cls` itself refuses; the text begins with `where`, such as "dit".
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be an object, got {_short(values)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{where} must not have {unknown[0]!r}; it may have {', '.join(fields)}")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"{where} must have {missing[0]!r}")
    arguments = {name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast("type[Any]", hint), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {_short(value)}")
        each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(each) != len(value):
            raise ValueError(f"{where} must have {len(each)} entries, got {len(value)}")
        return tuple(_value(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(each, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object, got {_short(value)}")
        return {name: _value(arguments[1], v, f"{where}.{name}") for name, v in value.items()}
    wanted = (int, float) if hint is float else (hint,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be of type {hint.__name__}, got {_short(value)}")
    try:
        return hint(value)
    except OverflowError:
        raise ValueError(f"{where} is too large, got {_short(value)}") from None


def _short(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return "a huge integer"  # repr() of a long one is refused
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
