"""Payloads and metadata: typed values in, checked JSON out, and back; strictly, with the path of what is wrong.

cattrs converts; the hooks here take its leniency away (no coercion, aware datetimes only, unknown fields refused).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from aether_bg.errors import InvalidMetadata, InvalidPayload, shown

if TYPE_CHECKING:
    from cattrs.preconf.json import JsonConverter

T = TypeVar("T")

MOST_DEPTH: Final = 64
MOST_KEYS: Final = 64
MOST_METADATA: Final = 8 * 1024
_MOST_INT: Final = 2**63
_ESCAPED: Final = 6
"""Bytes that one character of text may take in JSON at most (`\\u0000`), relative to UTF-8."""


def converter() -> JsonConverter:
    """A cattrs converter for JSON that refuses what it would otherwise coerce."""
    from cattrs.preconf.json import make_converter

    made = make_converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (bool, str):
        made.register_structure_hook(kind, _exactly(kind))
    made.register_structure_hook(int, _int)
    made.register_structure_hook(float, _float)
    made.register_structure_hook(datetime, _aware)
    made.register_unstructure_hook(datetime, lambda value: _text(value, datetime.isoformat))
    made.register_unstructure_hook(date, lambda value: _text(value, date.isoformat))
    made.register_unstructure_hook(time, lambda value: _text(value, time.isoformat))
    made.register_structure_hook(date, _from_text(date.fromisoformat))
    made.register_structure_hook(time, _from_text(time.fromisoformat))
    made.register_unstructure_hook(timedelta, lambda value: value.total_seconds())
    made.register_structure_hook(timedelta, lambda value, _: timedelta(seconds=_float(value, float)))
    for text_kind in (UUID, Decimal, Path):
        made.register_unstructure_hook(text_kind, str)
        made.register_structure_hook(text_kind, _from_text(text_kind))
    return made


def _exactly(kind: type[T]) -> Callable[[Any, Any], T]:
    def check(value: Any, _: Any) -> T:
        if type(value) is kind:
            return value
        raise TypeError(f"{shown(value)} is no {kind.__name__}")

    return check


def _int(value: Any, _: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"{shown(value)} is no int")


def _float(value: Any, _: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{shown(value)} is no float")


def _aware(value: Any, _: Any) -> datetime:
    when = datetime.fromisoformat(value) if isinstance(value, str) else None
    if when is None or when.tzinfo is None:
        raise ValueError(f"{shown(value)} is no datetime with a time zone")
    return when


def _text(value: Any, write: Callable[[Any], str]) -> Any:
    return value if isinstance(value, str) else write(value)  # JSON forms are taken as they are


def _from_text(read: Callable[[str], T]) -> Callable[[Any, Any], T]:
    def check(value: Any, _: Any) -> T:
        if not isinstance(value, str):
            raise TypeError(f"{shown(value)} is no text")
        try:
            return read(value)
        except (ValueError, ArithmeticError):
            raise ValueError(f"{shown(value)} cannot be read as {getattr(read, '__name__', read)}") from None

    return check


class PayloadType:
    """A payload's type, compiled: `check` at the enqueue, `structure` at the attempt."""

    def __init__(self, of: Any, using: JsonConverter) -> None:
        """Raises whatever cattrs raises for a type it cannot handle."""
        self.of, self._using = of, using
        self._fields = _has_fields(of)
        self.free = of in (Any, object)
        """Any JSON value: nothing to convert."""
        hook = using.get_structure_hook(of)
        self.structure: Callable[[Any], Any] = (lambda value: value) if self.free else (lambda value: hook(value, of))
        if self._fields:
            using.get_unstructure_hook(of)

    def to_json(self, value: Any) -> Any:
        """An instance, or a mapping in its JSON form, as an unchecked JSON value. Raises `InvalidPayload`."""
        if self.free or (self._fields and isinstance(value, Mapping)):
            return value
        if self._fields and not isinstance(value, self.of):
            raise InvalidPayload(
                shown(value), f"the handler wants {name_of(self.of)}, not {type(value).__name__}",
                "Pass an instance, or a mapping of its fields.",
            )  # fmt: skip
        try:
            return self._using.unstructure(value, unstructure_as=self.of)
        except Exception:
            return value  # no instance of the type, then; as a JSON form it is checked field by field

    def load(self, value: Any) -> Any:
        """The typed value of a JSON value. Raises `InvalidPayload` with the path."""
        try:
            return self.structure(value)
        except Exception as error:
            path, reason = _first_problem(error, name_of(self.of))
            raise InvalidPayload(
                "the payload", f"it does not fit {name_of(self.of)}: {reason}", "Compare it with the type's fields.",
                path=path,
            ) from error  # fmt: skip


def _has_fields(of: Any) -> bool:
    return isinstance(of, type) and (hasattr(of, "__attrs_attrs__") or hasattr(of, "__dataclass_fields__"))


def name_of(of: Any) -> str:
    return getattr(of, "__qualname__", None) or str(of)


def _first_problem(error: BaseException, kind: str) -> tuple[str, str]:
    """Path and reason of the first problem that cattrs found."""
    from cattrs import transform_error

    try:
        first, _, path = transform_error(error)[0].rpartition(" @ ")
    except Exception:  # not a cattrs error: raised by a validator or __init__ of the user's
        return "$", str(error) or type(error).__name__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    generic = first.startswith("invalid ") or not first
    return path or "$", str(error) or first if generic else first


def check_json(value: Any, limit: int) -> Any:
    """`value` as plain JSON (dict, list, str, int, float, bool, None). Raises `InvalidPayload` with the path."""
    walk = _Walk(InvalidPayload)
    plain = walk.plain(value, "$", 1)
    if walk.size * _ESCAPED > limit:  # only then is it worth writing out
        size = len(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())
        if size > limit:
            raise InvalidPayload(
                f"a payload of {size:,} bytes", f"at most {limit:,} are allowed",
                "Store the data elsewhere and pass its key, or raise max_payload.",
            )  # fmt: skip
    return plain


def check_metadata(metadata: Any) -> dict[str, Any]:
    """Metadata within its limits, as plain JSON. Raises `InvalidMetadata`."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidMetadata(
            shown(metadata), "metadata is a mapping with string keys", 'For example: {"OrderId": 123}.'
        )
    plain: dict[str, Any] = _Walk(InvalidMetadata).plain(metadata, "$", 1)
    if len(plain) > MOST_KEYS:
        raise InvalidMetadata(f"metadata of {len(plain)} keys", f"at most {MOST_KEYS} are allowed", "Use the payload.")
    size = len(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MOST_METADATA:
        raise InvalidMetadata(
            f"metadata of {size:,} bytes", f"at most {MOST_METADATA:,} are allowed", "Use the payload."
        )
    return plain


class _Walk:
    """Copies a value into plain JSON, sizing it up on the way."""

    def __init__(self, error: type[InvalidPayload] | type[InvalidMetadata]) -> None:
        self.error = error
        self.size = 0

    def plain(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._str(value, path)
        if value is None or kind is bool:
            self.size += 5
            return value
        if kind is int:
            if not -_MOST_INT <= value < _MOST_INT:
                raise self.error(shown(value), "integers must fit 64 bits", "Pass it as text.", path=path)
            self.size += 20
            return value
        if kind is float:
            if not math.isfinite(value):
                raise self.error(shown(value), "JSON has no NaN and no infinity", "Pass None, or text.", path=path)
            self.size += 24
            return value
        if depth > MOST_DEPTH:
            raise self.error("a value", f"it is nested more than {MOST_DEPTH} deep, or contains itself", path=path[:80])
        if isinstance(value, Mapping):
            self.size += 2
            return {self._key(key, path): self.plain(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            self.size += 2
            return [self.plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        for base in (str, int, float):  # subclasses: enums and the like
            if isinstance(value, base):
                return self.plain(base(value), path, depth)
        raise self.error(shown(value), f"{kind.__name__} is not JSON", "Convert it, or type the payload.", path=path)

    def _key(self, key: Any, path: str) -> str:
        if not isinstance(key, str):
            raise self.error(shown(key), "JSON keys are strings", "Convert the keys.", path=path)
        return self._str(str(key), path)

    def _str(self, value: str, path: str) -> str:
        if value.isascii():
            self.size += len(value) + 4
            return value
        try:
            self.size += len(value.encode()) + 4
        except UnicodeEncodeError:
            raise self.error(ascii(value)[:80], "lone surrogates cannot be stored", path=path) from None
        return value
