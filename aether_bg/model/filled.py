"""A faster way to make values that are made by the thousand."""

from __future__ import annotations

from typing import Any, TypeVar
from uuid import UUID, SafeUUID

T = TypeVar("T")


def filled(cls: type[T], fields: dict[str, Any]) -> T:
    """The instance that `cls(**fields)` makes, if `fields` has all its fields; `fields` belongs to it from now on.

    For attrs classes without slots, validators and converters.
    """
    value = object.__new__(cls)
    object.__setattr__(value, "__dict__", fields)
    return value


def uuid_of(number: int) -> UUID:
    """`UUID(int=number)`, for a number that is known to have 128 bits."""
    value = object.__new__(UUID)
    object.__setattr__(value, "int", number)
    object.__setattr__(value, "is_safe", SafeUUID.unknown)
    return value
