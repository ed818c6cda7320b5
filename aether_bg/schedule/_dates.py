"""The next matching wall time, found by croniter. No zones here: every datetime is naive, in whole seconds."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from datetime import datetime
from functools import lru_cache
from typing import Any

from ._fields import Field
from ._model import LATEST

CYCLE = 400
"""Years after which the Gregorian calendar repeats, weekdays included."""

LENGTHS = {1: (31,), 2: (28, 29), 3: (31,), 4: (30,), 5: (31,), 6: (30,), 7: (31,), 8: (31,), 9: (30,),
           10: (31,), 11: (30,), 12: (31,)}  # fmt: skip


def expressions(fields: tuple[Field, ...]) -> tuple[str, ...]:
    """Expressions for croniter, of which each stands for a part of the occurrences; none if no date matches.

    Every field is written out in full, so that croniter has no notation to interpret. Both day fields of one
    expression must match; where either is enough, there are two expressions.
    """
    *clock, day, month, weekday = fields
    wanted: list[tuple[Field | None, Field | None]] = [(day, weekday)]
    if not day.star and not weekday.star:
        wanted = [(day, None), (None, weekday)]
    return tuple(
        " ".join([*map(written, clock), written(days), written(month), written(weekdays)])
        for days, weekdays in wanted
        if comes(days, month, weekdays)
    )


def written(field: Field | None) -> str:
    if field is None or field.full:
        return "*"
    parts: Iterable[str] = map(str, field.values)
    if field.nth:
        parts = (f"{weekday}#{number}" for weekday, number in field.nth)
    return ",".join([*parts, *(["L"] if field.last else [])])


def comes(day: Field | None, month: Field, weekday: Field | None) -> bool:
    """Whether any month, of any length and beginning on any weekday, has a day that matches both.

    In 400 years February 29 falls on every weekday, so each such month exists.
    """
    for length in sorted({length for number in month.values for length in LENGTHS[number]}, reverse=True):
        days = {*range(1, length + 1)}
        if day is not None:
            days &= {*day.values, *([length] if day.last else [])}
        if days and (weekday is None or weekday.full):
            return True
        for date in days:
            if weekday is not None and (weekday.values or any((date + 6) // 7 == n for _, n in weekday.nth)):
                return True
    return False


@lru_cache(maxsize=1024)
def compiled(expression: str) -> Any:
    # Imported at the first search: a process that only enqueues never needs it.
    from croniter import croniter

    return croniter(expression, datetime(2000, 1, 1), day_or=False, second_at_beginning=True)


def following(expressions: tuple[str, ...], wall: datetime) -> datetime | None:
    """The first matching wall time later than `wall`; None if there is none within 50 years."""
    # croniter calculates in timestamps, and platforms disagree on those before 1970 and after 3000. So it gets
    # the same day in the calendar cycle that begins in 2000.
    shift = (wall.year - 2000) // CYCLE * CYCLE
    start = wall.replace(year=wall.year - shift)
    found = [match for expression in expressions if (match := search(expression, start)) is not None]
    if not found or (year := min(found).year + shift) > LATEST.year:
        return None
    nearest = min(found).replace(year=year)
    return nearest if nearest < LATEST.replace(tzinfo=None) else None


def search(expression: str, start: datetime) -> datetime | None:
    from croniter import CroniterBadDateError

    # get_next changes the croniter. A copy of one that never changes is as safe as a lock, and cheaper.
    try:
        match: datetime = copy(compiled(expression)).get_next(datetime, start_time=start)
    except CroniterBadDateError:
        return None
    return match
