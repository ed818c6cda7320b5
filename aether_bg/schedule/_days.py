"""`@every 2 weeks on MON at 09:00`: every nth day or week, at a time of day."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, Self

import attrs

from . import _fields, _words
from ._calendar import Grid, Walls
from ._model import Refused, instant
from ._wall_clock import ByWallClock

EXAMPLE: Final = "@every 2 weeks on MON at 09:00"
MOST: Final = 999
"""Days, or weeks."""
WORDS = re.compile(r"(?!P)(?:.*[ \t])?(?:[0-9]*[A-Z]{3,}|AT|ON)(?:[ \t].*)?", re.IGNORECASE)
FORM = re.compile(r"(?:([^ ]+) )?(DAY|WEEK)S?(?: ON ([^ ]+))?(?: AT ([^ ]+))?")
TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")
REMEDIES: Final = (
    (r"(MONTH|YEAR|QUARTER)", "months and years are written in cron fields", "0 9 1 */2 *"),
    (r"[0-9 ](SEC|MIN|H(OU)?R)", "a length of time is written 1h30m, and a time of day belongs to days and weeks",
     "@every 2h"),
    (r"^(WEEKDAY|MON|TUE|WED|THU|FRI|SAT|SUN)", "weekdays stand after on", "@every week on MON-FRI at 09:00"),
    (r" AT .* ON ", "on must stand before at", EXAMPLE),
)  # fmt: skip


@attrs.frozen(kw_only=True)
class EveryDays(ByWallClock):
    """Days or weeks counted from the local date of the anchor; from a job's `start`, if it has one."""

    from_start: ClassVar[bool] = True

    number: int
    unit: Literal["day", "week"]
    weekdays: tuple[int, ...] = ()
    """For weeks, 0 is Sunday; none given: the weekday of the date from which it is counted."""
    time: tuple[int, int, int]
    parsed: datetime = attrs.field(factory=lambda: datetime.now(UTC), repr=False, eq=False)
    """The anchor if none is given."""

    @property
    def frequency(self) -> bool:
        return False

    def again(self) -> Self:
        """The same, parsed now."""
        return attrs.evolve(self, parsed=datetime.now(UTC))

    def walls(self, anchor: datetime | None) -> Walls:
        counted_from = instant(self.parsed if anchor is None else anchor, "anchor", self.text)
        origin = self.clock.wall(counted_from).date()
        step = self.number if self.unit == "day" else 7 * self.number
        # Weeks are the seven days from the origin on: the first of the weekdays is the next one.
        offsets = sorted((weekday - origin.isoweekday()) % 7 for weekday in self.weekdays)
        hour, minute, second = self.time
        return Walls((second,), (minute,), (hour,), Grid(origin, step, tuple(offsets) or (0,)))

    def describe(self) -> str:
        hour, minute, second = self.time
        words = f"at {hour:02}:{minute:02}" + (f":{second:02}" if second else "")
        if self.weekdays:
            words += f" on {_words.series(_words.weekday_names(self.weekdays))}"
        words += f"{',' if self.weekdays else ''} {_words.every(self.number, self.unit)}"
        if self.number > 1 or (self.unit == "week" and not self.weekdays):
            words += " from its start"
        return f"{words}, {self.timezone or 'UTC'}"


def read(value: str) -> dict[str, Any] | None:
    """The fields of `EveryDays` in the text after `@every`; None: it is a length of time instead."""
    if not WORDS.fullmatch(value):
        return None
    words = re.sub(r" ?, ?", ",", " ".join(value.upper().split()))
    if (match := FORM.fullmatch(words)) is None:
        for pattern, reason, example in REMEDIES:
            if re.search(pattern, words):
                raise Refused(None, f"'{value}': {reason}", example)
        raise Refused(None, f"'{value}' is neither a length of time nor days or weeks at a time of day", EXAMPLE)
    number, unit, on, at = match.groups()
    if number is not None and (not number.isdigit() or not 1 <= int(number) <= MOST):
        raise Refused("every", f"'{number}' must be a number from 1 to {MOST}", EXAMPLE)
    if on is not None and unit == "DAY":
        raise Refused("on", "weekdays belong to weeks: on must follow week or weeks", "@every week on MON-FRI at 09:00")
    if at is None:
        days = int(number or 1) * (7 if unit == "WEEK" else 1)
        reason = f"a time of day is missing; for a length of time that ignores the wall clock write P{days}D"
        raise Refused("at", reason, f"@every {value} at 09:00")
    return {
        "number": int(number or 1), "unit": unit.lower(), "weekdays": () if on is None else read_on(on),
        "time": read_at(at),
    }  # fmt: skip


def read_on(text: str) -> tuple[int, ...]:
    """`MON`, `MON,THU`, `MON-FRI`."""
    try:
        field = _fields.read(_fields.WEEKDAY, text)
    except Refused as refused:
        raise Refused("on", str(refused), EXAMPLE) from None
    if field.star or field.stepped or field.nth:
        raise Refused("on", f"'{text}' must be weekdays, or ranges of them", EXAMPLE)
    return field.values


def read_at(text: str) -> tuple[int, int, int]:
    """`09:00`, or `09:00:30`."""
    match = TIME.fullmatch(text)
    hour, minute, second = (int(number or 0) for number in match.groups()) if match else (24, 0, 0)
    if hour > 23 or minute > 59 or second > 59:
        raise Refused("at", f"'{text}' must be a time of day from 00:00 to 23:59", EXAMPLE)
    return hour, minute, second
