"""Single values of payloads: how each is read, strictly, and written as JSON."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeAlias, get_args

from aether_bg.errors import shown

Structure: TypeAlias = Callable[[Any, Any], Any]
Unstructure: TypeAlias = Callable[[Any], Any]


def scalar(kind: type) -> Structure:
    accepts: Structure = to_float if kind is float else exactly

    def read(value: Any, of: Any) -> Any:
        if of is kind:
            return accepts(value, kind)
        if issubclass(of, Enum):
            return member(value, of)
        return of(accepts(value, kind))

    return read


def exactly(value: Any, kind: type) -> Any:
    if type(value) is kind:
        return value
    raise TypeError(f"{shown(value)} is not {'an' if kind is int else 'a'} {kind.__name__}")


def to_float(value: Any, _: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{shown(value)} is not a float")


def aware(value: Any, of: Any) -> Any:
    when = of.fromisoformat(value) if isinstance(value, str) else None
    if when is None or when.tzinfo is None:
        raise ValueError(f"{shown(value)} is not a datetime with a time zone")
    return when


def written(write: Callable[[Any], str]) -> Unstructure:
    return lambda value: value if isinstance(value, str) else write(value)  # JSON forms are taken as they are


def text_of(kind: type, value: Any) -> str:
    if isinstance(value, kind):
        return str(value)
    raise TypeError(f"{shown(value)} is not a {kind.__name__}")


def read_by(kind: type, how: str = "__call__") -> Structure:
    def read(value: Any, of: Any) -> Any:
        if not isinstance(value, str):
            raise TypeError(f"{shown(value)} is not text")
        try:
            return of(value) if how == "__call__" else getattr(of, how)(value)
        except (ValueError, ArithmeticError):
            raise ValueError(f"{shown(value)} cannot be read as {kind.__name__}") from None

    return read


def member(value: Any, of: Any) -> Any:
    try:
        found = of(value)
    except (ValueError, TypeError):
        found = None
    if found is None or type(value) is not type(plain(found.value)):
        raise ValueError(f"{shown(value)} is not a value of {of.__qualname__}: {few(each.value for each in of)}")
    return found


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def few(values: Any) -> str:
    texts = [shown(value) for value in values]
    return ", ".join(texts[:8]) + (", …" if len(texts) > 8 else "")


def enum_value(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def literal(of: Any, _: Any) -> Structure:
    options = {(type(enum_value(option)), enum_value(option)): option for option in get_args(of)}

    def read(value: Any, _: Any) -> Any:
        try:
            return options[type(value), value]
        except (KeyError, TypeError):
            raise ValueError(f"{shown(value)} is not one of {few(key for _, key in options)}") from None

    return read
