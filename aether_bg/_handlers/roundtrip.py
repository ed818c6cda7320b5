"""Checks that a payload comes back as it was: what JSON would change is refused at the enqueue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from datetime import datetime
from enum import Enum
from typing import Any, Final

from aether_bg._handlers.foreign import fields_of

_NO_EQ: Final[Any] = object.__eq__
_JSON: Final = frozenset((str, int, float, bool, type(None)))


_FORMS: Final[dict[type, Any]] = {dict: Set | list | tuple, list: Mapping}
"""JSON's containers, and types that JSON cannot represent."""


def changed(given: Any, back: Any, trusted: Set[Any] = frozenset(), path: str = "$") -> tuple[str, Any, Any] | None:
    """The first part that comes back changed: its path, what was given, what comes back. None: nothing changes.

    A value in its JSON form (text for a datetime, a list for a set) counts as that value. `trusted`: types whose
    conversion the user wrote.
    """
    kind, other = type(given), type(back)
    if other in trusted and (kind is other or kind in _JSON):
        return None
    if kind in _JSON:
        fits = given == back if other in _JSON else not isinstance(back, Mapping | Set | list | tuple)
        return None if fits else (path, given, back)
    parts: Iterable[tuple[Any, Any, str]] = ()
    names = fields_of(kind)
    if kind is other and names:
        parts = ((getattr(given, name), getattr(back, name), f".{name}") for name in names)
    elif isinstance(given, Mapping) and isinstance(back, Mapping):
        if given.keys() == back.keys() and _types(given) == _types(back):
            parts = ((item, back[key], f".{key}") for key, item in given.items())
        elif kind is dict and _types(given) == {str}:  # keys in their JSON form, in the same order
            parts = zip(given.values(), back.values(), (f".{key}" for key in given), strict=False)
        else:
            return path, given, back
    elif isinstance(given, list | tuple) and isinstance(back, list | tuple) and len(given) == len(back):
        if kind is not list and not issubclass(other, kind):
            return path, given, back
        parts = ((item, part, f"[{index}]") for index, (item, part) in enumerate(zip(given, back, strict=True)))
    elif (kind is dict and not isinstance(back, Set | list | tuple)) or (
        kind is list and not isinstance(back, Mapping)
    ):
        return None  # the JSON form of a class, of a set
    elif not _same(given, back):
        return path, given, back
    for item, part, step in parts:
        if (found := changed(item, part, trusted, path + step)) is not None:
            return found
    return None


def _types(values: Iterable[Any]) -> set[type]:
    return {type(value) for value in values}


def _same(given: Any, back: Any) -> bool:
    kind: Any = type(given)
    if isinstance(given, Enum):
        return given is back
    if kind is type(back) and kind.__eq__ is _NO_EQ:
        return True  # they cannot be told apart
    if isinstance(given, datetime) and isinstance(back, datetime) and given.tzinfo and back.tzinfo:
        given, back = _instant(given), _instant(back)  # two zones are never equal in an hour that comes twice
    if isinstance(given, Set) and isinstance(back, Set):
        return bool(given == back) and _types(given) == _types(back)
    try:
        return bool(given == back or given != given)
    except Exception:  # arrays, for example, compare item by item
        return kind is type(back)


def _instant(when: datetime) -> datetime:
    offset = when.utcoffset()
    assert offset is not None  # it has been read as aware
    return when.replace(tzinfo=None) - offset
