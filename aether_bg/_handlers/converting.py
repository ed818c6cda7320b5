"""The converter of payloads: cattrs made strict (no coercion, aware datetimes, no unknown fields).

What it writes it can read back: enums as members, keys with their type, models of pydantic and msgspec by their own
rules.
"""

from __future__ import annotations

import collections
import collections.abc
import json
import operator
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path, PurePath
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from aether_bg._handlers import foreign, scalars
from aether_bg._handlers.scalars import Structure, Unstructure
from aether_bg.errors import shown

if TYPE_CHECKING:
    from cattrs.preconf.json import JsonConverter

_TIMES: Final[tuple[Any, ...]] = (datetime, date, time)
_UNIONS: Final[tuple[Any, ...]] = (Union, UnionType)
_BARE: Final[dict[Any, Unstructure]] = {dict: dict, list: list, tuple: list, set: list, frozenset: list}
_AS_TEXT: Final[tuple[Any, ...]] = (
    UUID, Decimal, PurePath, Path, IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface,
)  # fmt: skip
_MAPPINGS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping, collections.OrderedDict)


def converter(own: Mapping[Any, tuple[Unstructure, Unstructure]]) -> JsonConverter:
    """A converter for JSON. `own`: the user's types, each with its `encode` and `decode`."""
    from cattrs.preconf.json import make_converter

    made = make_converter(
        forbid_extra_keys=True, detailed_validation=True,
        structure_fallback_factory=lambda kind: _fallback(kind, made),
    )  # fmt: skip
    for scalar in (bool, str, int, float):
        made.register_structure_hook(scalar, scalars.scalar(scalar))
    for when in _TIMES:
        made.register_unstructure_hook(when, scalars.written(when.isoformat))
        made.register_structure_hook(
            when, scalars.aware if when is datetime else scalars.read_by(when, "fromisoformat")
        )
    made.register_unstructure_hook(timedelta, lambda value: value.total_seconds())
    made.register_structure_hook(timedelta, lambda value, of: of(seconds=scalars.to_float(value, float)))
    for text in _AS_TEXT:
        made.register_unstructure_hook(text, scalars.written(partial(scalars.text_of, text)))
        made.register_structure_hook(text, scalars.read_by(text))
    made.register_structure_hook(Enum, scalars.member)
    _factories(made, _is_enum, lambda of, _: scalars.member, lambda of, _: scalars.enum_value)
    made.register_unstructure_hook_func(lambda of: of in (Any, object), lambda value: value)
    made.register_structure_hook_func(partial(operator.is_, object), lambda value, _: value)  # as Any
    for bare, write in _BARE.items():  # without types, the items are JSON
        made.register_unstructure_hook_func(partial(operator.is_, bare), write)
    _factories(made, lambda of: get_origin(of) is Literal, scalars.literal, lambda of, _: scalars.enum_value)
    _factories(made, _has_other_keys, _keys, _keys_written)
    _factories(made, _is_named_tuple, _named_tuple, _named_tuple_written)
    made.register_unstructure_hook_factory(_is_union, lambda of: _arm(of, made))
    for library in foreign.LIBRARIES:
        _factories(made, library.takes, partial(_reader, library), partial(_writer, library))
    for mine, (encode, decode) in own.items():
        if isinstance(mine, type):
            made.register_unstructure_hook(mine, encode)
            made.register_structure_hook(mine, partial(_decoded, decode))
        else:
            made.register_unstructure_hook_func(partial(operator.eq, mine), encode)
            made.register_structure_hook_func(partial(operator.eq, mine), partial(_decoded, decode))
    return made


def _reader(library: type[foreign.Library], of: Any, _: Any) -> Structure:
    return library.read


def _writer(library: type[foreign.Library], of: Any, _: Any) -> Unstructure:
    return library.writer(of)


def _decoded(decode: Callable[[Any], Any], value: Any, _: Any) -> Any:
    return decode(value)


def _is_enum(of: Any) -> bool:
    return isinstance(of, type) and issubclass(of, Enum)


def _is_union(of: Any) -> bool:
    return get_origin(of) in _UNIONS


def _has_other_keys(of: Any) -> bool:
    return get_origin(of) in _MAPPINGS and get_args(of)[0] not in (str, Any)


def _factories(
    made: JsonConverter, takes: Callable[[Any], bool], read: Callable[[Any, Any], Structure],
    write: Callable[[Any, Any], Unstructure],
) -> None:  # fmt: skip
    made.register_structure_hook_factory(takes, lambda of: read(of, made))
    made.register_unstructure_hook_factory(takes, lambda of: write(of, made))


# -- collections -----------------------------------------------------------------------------------


def _keys(of: Any, made: JsonConverter) -> Structure:
    """A key that is not text is written as JSON inside the text: `{"1": …}` for `dict[int, …]`."""
    kind, item = get_args(of)
    base, plain = dict[Any, item], made.get_structure_hook(dict[Any, item])  # type: ignore[valid-type]
    hook = made.get_structure_hook(kind)
    origin: Any = get_origin(of)
    build = origin if origin is collections.OrderedDict else dict

    def key(text: Any) -> Any:
        try:
            return hook(text, kind)
        except Exception as error:
            if not isinstance(text, str):
                raise
            try:
                return hook(json.loads(text), kind)
            except ValueError:
                raise ValueError(
                    f"the key {shown(text)} cannot be read as {getattr(kind, '__name__', kind)}"
                ) from error

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise TypeError(f"{shown(value)} is not a mapping")
        return build(plain({key(text): each for text, each in value.items()}, base))

    return read


def _keys_written(of: Any, made: JsonConverter) -> Unstructure:
    kind, item = get_args(of)
    plain = made.get_unstructure_hook(dict[Any, item])  # type: ignore[valid-type]
    hook = made.get_unstructure_hook(kind)

    def key(value: Any) -> str:
        written = hook(value)
        return written if isinstance(written, str) else json.dumps(written, allow_nan=False)

    return lambda value: {key(name): each for name, each in plain(value).items()}


def _is_named_tuple(of: Any) -> bool:
    return isinstance(of, type) and issubclass(of, tuple) and hasattr(of, "_fields")


def _items(of: Any) -> list[Any]:
    hints = get_type_hints(of)
    return [hints.get(name, Any) for name in of._fields]


def _named_tuple(of: Any, made: JsonConverter) -> Structure:
    kinds = _items(of)
    least = len(kinds) - len(of._field_defaults)
    hooks = {count: _tuple_of(kinds[:count], made) for count in range(least, len(kinds) + 1)}

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) not in hooks:
            raise ValueError(f"{shown(value)} is not a list of {len(kinds)} items ({', '.join(of._fields)})")
        kind, hook = hooks[len(value)]
        return of(*hook(value, kind))

    return read


def _tuple_of(kinds: list[Any], made: JsonConverter) -> tuple[Any, Structure]:
    kind = tuple[tuple(kinds)] if kinds else tuple[()]  # type: ignore[misc]
    return kind, made.get_structure_hook(kind)


def _named_tuple_written(of: Any, made: JsonConverter) -> Unstructure:
    hooks = [made.get_unstructure_hook(kind) for kind in _items(of)]
    return lambda value: [hook(each) for hook, each in zip(hooks, value, strict=True)]


# -- unions ----------------------------------------------------------------------------------------


def _arm(of: Any, made: JsonConverter) -> Unstructure:
    """Writes a value as the member of the union that it is an instance of."""
    arms = [(get_origin(arm) or arm, arm) for arm in get_args(of)]

    def write(value: Any) -> Any:
        classes = [(kind, arm) for kind, arm in arms if isinstance(kind, type) and isinstance(value, kind)]
        for kind, arm in classes:
            if type(value) is kind:
                return made.get_unstructure_hook(arm)(value)
        return made.get_unstructure_hook(classes[0][1])(value) if classes else value

    return write


def _fallback(of: Any, made: JsonConverter) -> Structure:
    """Reads a union that cattrs does not support: the first member that can be read wins."""
    if not _is_union(of):
        from cattrs import StructureHandlerNotFoundError

        raise StructureHandlerNotFoundError(f"{of} is not supported", of)
    arms = [(arm, made.get_structure_hook(arm)) for arm in get_args(of)]

    def read(value: Any, _: Any) -> Any:
        for arm, hook in arms:
            try:
                return hook(value, arm)
            except Exception:
                continue
        raise ValueError(
            f"{shown(value)} is not one of {', '.join(getattr(arm, '__name__', str(arm)) for arm, _ in arms)}"
        )

    return read
