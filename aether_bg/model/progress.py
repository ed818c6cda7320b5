"""How far an attempt has come, as its handler reports it."""

from __future__ import annotations

import math
from datetime import datetime
from numbers import Integral, Real
from typing import Any, Final

import attrs

from aether_bg.errors import InvalidOption, shown
from aether_bg.model.plain import to_plain

LONGEST_NOTE: Final = 200
_LARGEST: Final = 2**63 - 1


@attrs.frozen
class Progress:
    """`done` of `total` (None: unknown), with a note; `at`: when the handler reported it, aware, in UTC.

    `done` may be larger than `total`: totals are often estimates.
    """

    done: float
    total: float | None
    note: str | None
    at: datetime

    @classmethod
    def checked(cls, done: Any, total: Any, note: Any, at: datetime) -> Progress:
        """Raises `InvalidOption`."""
        if note is not None:
            if not isinstance(note, str):
                raise InvalidOption(shown(note), "must be a string", "Leave it out for none.", name="note")
            if len(note) > LONGEST_NOTE or not _encodable(note):
                rule = f"must be text of at most {LONGEST_NOTE} characters"
                raise InvalidOption(shown(note), rule, "Log the details with ctx.log.", name="note")
        return cls(_number("done", done), None if total is None else _number("total", total), note, at)

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; None if the total is unknown or 0."""
        return min(self.done / self.total, 1.0) if self.total else None

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON, as `JobInfo.to_dict`."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def __str__(self) -> str:
        """For people: `30 of 120 (25 %), customers`."""
        text = f"{self.done:.12g}"
        if self.total is not None:
            text += f" of {self.total:.12g}"
        if (fraction := self.fraction) is not None:
            text += f" ({math.floor(fraction * 100)} %)"
        return f"{text}, {self.note}" if self.note else text


def _number(name: str, value: Any) -> float:
    """An int or a float, also from a number of another library."""
    if isinstance(value, Real) and not isinstance(value, bool):
        number = int(value) if isinstance(value, Integral) else float(value)
        if math.isfinite(number) and 0 <= number <= _LARGEST:
            return number
    raise InvalidOption(shown(value), "must be a finite number, 0 or more", "For example: 30.", name=name)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
