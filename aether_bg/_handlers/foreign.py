"""Models of pydantic and structs of msgspec in payloads, read by their own strict rules; recognised, never imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from aether_bg.errors import shown


class Misfit(ValueError):
    """A value that does not fit, at `path` below the model."""

    def __init__(self, reason: str, path: str = "") -> None:
        self.path = path
        super().__init__(reason)


class Library(Protocol):
    """How the models of one library are recognised, written and read."""

    @staticmethod
    def takes(of: Any) -> bool: ...
    @staticmethod
    def writer(of: Any) -> Callable[[Any], Any]: ...
    @staticmethod
    def read(value: Any, of: Any) -> Any: ...


class Pydantic:
    """`BaseModel`, and pydantic's dataclasses."""

    @staticmethod
    def takes(of: Any) -> bool:
        return isinstance(of, type) and hasattr(of, "__pydantic_core_schema__")

    @staticmethod
    def writer(of: Any) -> Callable[[Any], Any]:
        return lambda value: _dumped(of, value)

    @staticmethod
    def read(value: Any, of: Any) -> Any:
        try:
            made = of.__pydantic_validator__.validate_json(json.dumps(value), strict=True)
        except ValueError as error:
            problems = getattr(error, "errors", None)
            if problems is None:
                raise
            first = problems()[0]
            raise Misfit(first["msg"], "".join(_step(part) for part in first["loc"])) from None
        _check_known(value, _dumped(of, made), _dumped(of, made, by_alias=False))
        return made


def _dumped(of: Any, value: Any, *, by_alias: bool = True) -> Any:
    return of.__pydantic_serializer__.to_python(value, mode="json", by_alias=by_alias, round_trip=True, warnings=False)


def _check_known(value: Any, *dumped: Any, path: str = "") -> None:
    """Checks that the model has taken every key, by its name or its alias."""
    if isinstance(value, Mapping):
        known = [each for each in dumped if isinstance(each, Mapping)]
        for key, item in value.items():
            inside = [each[key] for each in known if key in each]
            if known and not inside:
                raise Misfit(f"{shown(key)} is not a field", path)
            _check_known(item, *inside, path=path + _step(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            inside = [each[index] for each in dumped if isinstance(each, list) and index < len(each)]
            _check_known(item, *inside, path=path + _step(index))


def _step(part: Any) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


class Msgspec:
    """`Struct`."""

    @staticmethod
    def takes(of: Any) -> bool:
        return isinstance(of, type) and hasattr(of, "__struct_fields__")

    @staticmethod
    def writer(of: Any) -> Callable[[Any], Any]:
        return lambda value: sys.modules["msgspec"].to_builtins(value, str_keys=True)

    @staticmethod
    def read(value: Any, of: Any) -> Any:
        try:
            made = sys.modules["msgspec"].convert(value, of, strict=True, str_keys=True)
        except ValueError as error:
            reason, _, path = str(error).partition(" - at `$")
            raise Misfit(reason, path.rstrip("`")) from None
        _check_taken(value, made)
        return made


def _check_taken(value: Any, made: Any, path: str = "") -> None:
    """Checks that the struct has taken every key and item: msgspec itself ignores what it does not know."""
    for item, part, step in _pairs(value, made, path):
        _check_taken(item, part, path + step)


def _pairs(value: Any, made: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    kind = type(made)
    if isinstance(value, Mapping) and isinstance(made, Mapping):
        yield from ((item, part, _step(key)) for (key, item), part in zip(value.items(), made.values(), strict=True))
    elif isinstance(value, Mapping):
        names = dict(
            zip(getattr(kind, "__struct_encode_fields__", ()), getattr(kind, "__struct_fields__", ()), strict=True)
        )
        names = names or {name: name for name in fields_of(kind)}
        tag = getattr(getattr(kind, "__struct_config__", None), "tag_field", None)
        for key, item in value.items():
            if key in names:
                yield item, getattr(made, names[key]), _step(key)
            elif key != tag and names:
                raise Misfit(f"{shown(key)} is not a field", path)
    elif isinstance(value, list) and hasattr(kind, "__struct_fields__"):  # an array_like struct
        tagged = kind.__struct_config__.tag is not None
        placed = dict(enumerate(kind.__struct_fields__, tagged))
        for index, item in enumerate(value):
            if index in placed:
                yield item, getattr(made, placed[index]), _step(index)
            elif index >= tagged:
                raise Misfit(f"it has {len(value)} items, of at most {len(placed) + tagged}", path)
    elif isinstance(value, list) and isinstance(made, list | tuple):
        yield from ((item, part, _step(index)) for index, (item, part) in enumerate(zip(value, made, strict=True)))


LIBRARIES: tuple[type[Library], ...] = (Pydantic, Msgspec)


def fields_of(kind: Any) -> tuple[str, ...]:
    """The fields of an attrs class, dataclass, pydantic model or msgspec struct; empty for any other class."""
    found = _fields.get(kind)
    if found is None:
        found = _fields[kind] = _fields_of(kind)
    return found


_fields: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()


def _fields_of(kind: Any) -> tuple[str, ...]:
    if (of_attrs := getattr(kind, "__attrs_attrs__", None)) is not None:
        return tuple(field.name for field in of_attrs if field.init)
    if (of_dataclass := getattr(kind, "__dataclass_fields__", None)) is not None:
        return tuple(name for name, field in of_dataclass.items() if field.init and field._field_type.name == "_FIELD")
    if Pydantic.takes(kind):
        return (*kind.model_fields, "__pydantic_extra__")
    return tuple(getattr(kind, "__struct_fields__", ()))


def has_fields(of: Any) -> bool:
    marks = ("__attrs_attrs__", "__dataclass_fields__", "__pydantic_core_schema__", "__struct_fields__")
    return isinstance(of, type) and any(hasattr(of, mark) for mark in marks)
