"""Payloads and metadata: typed values in, checked JSON out, and back; strictly, with the path of what is wrong.

`converting` does the conversion; this module has the limits, and the check that a payload comes back as it was.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from aether_bg._handlers.foreign import LIBRARIES, fields_of, has_fields
from aether_bg._handlers.roundtrip import changed
from aether_bg.errors import AetherError, InvalidMetadata, InvalidPayload, brief, shown

if TYPE_CHECKING:
    from cattrs.preconf.json import JsonConverter

MOST_DEPTH: Final = 64
MOST_KEYS: Final = 64
MOST_METADATA: Final = 8 * 1024
_MOST_INT: Final = 2**63
_ESCAPED: Final = 6
"""The most bytes that one character of text takes in JSON (`\u0000`), relative to UTF-8."""


class PayloadType:
    """A payload's type, compiled: `to_json` and `check_back` at the enqueue, `load` at the attempt."""

    def __init__(
        self, of: Any, using: JsonConverter, trusted: Set[Any] = frozenset(), kind: str = "payload"
    ) -> None:  # fmt: skip
        """Raises whatever cattrs raises for a type that it cannot handle. `trusted`: see `roundtrip.changed`. `kind`: a
        word for messages."""
        self.of, self._trusted, self._kind = of, trusted, kind
        self._fields = has_fields(of)
        self._forms: Any = Mapping | list if any(library.takes(of) for library in LIBRARIES) else Mapping
        """The types of its JSON form, if it is a class with fields."""
        self.free = of in (Any, object)
        """Any JSON value: there is nothing to convert."""
        hook = using.get_structure_hook(of)
        self.structure: Callable[[Any], Any] = (lambda value: value) if self.free else (lambda value: hook(value, of))
        self._unstructure = using.get_unstructure_hook(of)

    def to_json(self, value: Any, limit: int) -> Any:
        """Takes an instance, or a mapping in its JSON form, and returns an unchecked JSON value. Raises
        `InvalidPayload`."""
        if self.free or (self._fields and isinstance(value, self._forms)):
            return value
        check_bounded(value, limit, self._kind)  # the conversion has no limits of its own
        if self._fields and not isinstance(value, self.of):
            raise InvalidPayload(
                shown(value), f"the handler wants {self._wanted(value)}",
                "Pass an instance, or a mapping of its fields.",
            )  # fmt: skip
        try:
            return self._unstructure(value)
        except Exception as error:
            if not self._fields:
                return value  # not an instance of the type: as a JSON form it is checked field by field
            raise InvalidPayload(
                shown(value), f"it cannot be written as JSON: {brief(error)}", "Compare it with the type's fields."
            ) from error

    def _wanted(self, value: Any) -> str:
        kind = type(value)
        if name_of(kind) != name_of(self.of):
            return f"{name_of(self.of)}, not {kind.__name__}"
        return (
            f"{self.of.__module__}.{name_of(self.of)}, not {kind.__module__}.{name_of(kind)}: two classes of one name"
        )

    def load(self, value: Any) -> Any:
        """The typed value of a JSON value. Raises `InvalidPayload` with the path."""
        try:
            return self.structure(value)
        except Exception as error:
            path, reason = _first_problem(error, name_of(self.of))
            raise InvalidPayload(
                f"the {self._kind}", f"it does not fit {name_of(self.of)}: {reason}",
                "Compare it with the type's fields.", path=path,
            ) from error  # fmt: skip

    def check_back(self, given: Any, plain: Any) -> None:
        """Checks that what is stored as `plain` comes back as `given`. Raises `InvalidPayload` with the path."""
        back = plain if self.free else self.load(plain)
        if self._fields and isinstance(given, self._forms):
            return
        if (found := changed(given, back, self._trusted)) is not None:
            path, part, instead = found
            raise InvalidPayload(
                shown(part), f"a {type(part).__name__} here would come back as {shown(instead)}"
                f" ({type(instead).__name__})", "Convert it first, or type the field for it.", path=path,
            )  # fmt: skip


def name_of(of: Any) -> str:
    return getattr(of, "__qualname__", None) or str(of)


def _first_problem(error: BaseException, kind: str) -> tuple[str, str]:
    """Path and reason of the first problem."""
    from cattrs import transform_error

    try:
        first, _, path = transform_error(error)[0].rpartition(" @ ")
    except Exception:  # not a cattrs error: a validator or __init__ of the user's raised it
        return "$" + getattr(error, "path", ""), str(error) or type(error).__name__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    generic = first.startswith("invalid ") or not first
    return (path or "$") + getattr(error, "path", ""), str(error) or first if generic else first


def check_json(value: Any, limit: int, what: str = "a payload") -> Any:
    """`value` as plain JSON (dict, list, str, int, float, bool, None). Raises `InvalidPayload` with the path."""
    walk = _Walk(InvalidPayload, what, limit, "Store the data elsewhere and pass its key, or raise max_payload.")
    plain = walk.copy(value)
    walk.check_size(plain)
    return plain


def check_metadata(metadata: Any) -> dict[str, Any]:
    """Metadata within its limits, as plain JSON. Raises `InvalidMetadata`."""
    if metadata is None:
        return {}
    walk = _Walk(InvalidMetadata, "metadata", MOST_METADATA, "Use the payload.")
    if not walk.is_mapping(metadata):
        raise InvalidMetadata(
            shown(metadata), "metadata must be a mapping with string keys", 'For example: {"OrderId": 123}.'
        )
    plain: dict[str, Any] = walk.copy(metadata)
    if len(plain) > MOST_KEYS:
        raise InvalidMetadata(f"metadata of {len(plain)} keys", f"at most {MOST_KEYS} are allowed", "Use the payload.")
    walk.check_size(plain)
    return plain


def check_bounded(value: Any, limit: int, kind: str) -> None:
    """Refuses a value with far more than `limit` parts before anything is made of it, also a shared, cyclic or endless
    one.

    Raises `InvalidPayload`. Looks into attrs classes, dataclasses, mappings and collections.
    """
    try:
        left, found = [value], 0
        while left:
            for part in _parts(left.pop()):
                found += 1
                if found > limit:
                    raise InvalidPayload(
                        f"a {kind} of more than {limit:,} values", f"at most {limit:,} bytes are allowed",
                        "Does it contain itself, or one part many times? Store the data elsewhere and pass its key.",
                    )  # fmt: skip
                if type(part) not in _SCALARS:
                    left.append(part)
    except InvalidPayload:
        raise
    except Exception as error:
        raise _unreadable(InvalidPayload, value, error) from error


_SCALARS: Final = frozenset((str, int, float, bool, type(None), bytes, datetime, date, UUID, Decimal))


def _parts(value: Any) -> Iterable[Any]:
    if names := fields_of(type(value)):
        return (getattr(value, name, None) for name in names)
    if isinstance(value, Mapping):
        return (part for pair in value.items() for part in pair)
    return value if isinstance(value, list | tuple | set | frozenset | deque) else ()


def _unreadable(
    kind: type[InvalidPayload] | type[InvalidMetadata], value: Any, error: Exception, path: str = "$"
) -> InvalidPayload | InvalidMetadata:
    reason = f"it cannot be read: a {type(value).__name__} raised {type(error).__name__}"
    return kind("a value", reason, "Pass plain values: dict, list, str, int, float, bool, None.", path=path)


class _Walk:
    """Copies a value into plain JSON and adds up its size: it ends soon after the limit, however large the value is.

    It calls methods of the value's own classes (`items`, `__iter__`, `__str__`) only if nothing else is possible.
    """

    def __init__(self, error: type[InvalidPayload] | type[InvalidMetadata], what: str, limit: int, remedy: str) -> None:
        self.error, self._what, self._limit, self._remedy = error, what, limit, remedy
        self.size = 0
        """The size in bytes, roughly: JSON takes up to `_ESCAPED` times as many."""
        self._characters = 4 * limit + 1024
        """How much may still be read. A value that is only a little too large is read to its end, so that the error can
        say its size."""
        self._values = max(limit // 2, 10_000)  # each takes two bytes or more
        self._path: list[str | int] = []

    def copy(self, value: Any) -> Any:
        try:
            return self._plain(value, 1)
        except AetherError:
            raise
        except Exception as error:  # raised by the value's own class
            raise _unreadable(self.error, value, error, self._where()) from error

    def check_size(self, plain: Any) -> None:
        if self.size * _ESCAPED <= self._limit:
            return  # it is not worth writing out
        size = len(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())
        if size > self._limit:
            raise self._too_large(f"{self._what} of {size:,} bytes")

    def is_mapping(self, value: Any) -> bool:
        try:
            return isinstance(value, Mapping)
        except Exception as error:
            raise _unreadable(self.error, value, error) from error

    def _too_large(self, what: str) -> InvalidPayload | InvalidMetadata:
        return self.error(what, f"at most {self._limit:,} are allowed", self._remedy)

    def _where(self) -> str:
        """The path of the current value, bounded."""
        parts = [f"[{part}]" if isinstance(part, int) else f".{part[:40]}" for part in self._path[:20]]
        return ("$" + "".join(parts))[:120]

    def _wrong(self, value: str, rule: str, remedy: str = "") -> InvalidPayload | InvalidMetadata:
        return self.error(value, rule, remedy, path=self._where())

    def _plain(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._str(value)
        if value is None or kind is bool:
            self.size += 5
            return value
        if kind is int:
            if not -_MOST_INT <= value < _MOST_INT:
                raise self._wrong(shown(value), "integers must fit 64 bits", "Pass it as text.")
            self.size += 20
            return value
        if kind is float:
            if not math.isfinite(value):
                raise self._wrong(shown(value), "JSON has no NaN and no infinity", "Pass None, or text.")
            self.size += 24
            return value
        if depth > MOST_DEPTH:
            raise self._wrong("a value", f"it is nested more than {MOST_DEPTH} deep, or contains itself")
        self.size += 2
        if kind is dict or isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple)):
            return self._list(value, depth)
        for base, exactly in _EXACTLY.items():  # subclasses: enums and the like
            if isinstance(value, base):
                return self._plain(exactly(value), depth)
        raise self._wrong(
            shown(value),
            f"{kind.__name__} is not JSON",
            "Convert it, or annotate it with a type that can be converted.",
        )

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for key, item in value.items():
            if type(key) is str:
                name = self._str(key)
            elif isinstance(key, str):
                name = self._str(str.__str__(key))
            else:
                raise self._wrong(shown(key), "JSON keys are strings", "Convert the keys.")
            self._path.append(name)
            copied[name] = self._str(item) if type(item) is str else self._plain(item, depth + 1)
            self._path.pop()
            self._bound()
        return copied

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        copied: list[Any] = []
        for index, item in enumerate(value):
            self._path.append(index)
            copied.append(self._plain(item, depth + 1))
            self._path.pop()
            self._bound()
        return copied

    def _bound(self) -> None:
        self._values -= 1
        if self._values < 0 or self._characters < 0:
            raise self._too_large(f"{self._what} of more than {self._limit:,} bytes")

    def _str(self, value: str) -> str:
        self._characters -= len(value)
        if value.isascii():
            self.size += len(value) + 4
            return value
        try:
            self.size += len(value.encode()) + 4
        except UnicodeEncodeError:
            raise self._wrong(ascii(value[:80]), "lone surrogates cannot be stored") from None
        return value


_EXACTLY: Final[dict[type, Callable[[Any], Any]]] = {str: str.__str__, int: int.__int__, float: float.__float__}
"""The plain value of a subclass, whatever its own `__str__`, `__int__` or `__float__` does."""
