"""The next matching wall time, found by croniter. No zones here: every datetime is naive, in whole seconds."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from datetime import datetime
from functools import lru_cache
from typing import Any

from ._calendar import MonthDates
from ._fields import ANY_DAY, ANY_WEEKDAY, LAST, Field, Pick
from ._model import LATEST

CYCLE = 400
"""Years after which the Gregorian calendar repeats, weekdays included."""


def expressions(fields: tuple[Field, ...]) -> tuple[str, ...]:
    """Expressions for croniter, each for a part of the occurrences; none if it cannot express them (W, and days counted
    from the end).

    Every field is written out in full, so that croniter has no notation to interpret. Both day fields of one expression
    must match; if either is enough, there are two expressions.
    """
    *clock, day, month, weekday = fields
    if any(pick != Pick() for pick in day.picks) or any(number == LAST for _, number in weekday.nth):
        return ()
    wanted = [(day, weekday)]
    if not day.star and not weekday.star:
        wanted = [(day, ANY_WEEKDAY), (ANY_DAY, weekday)]
    return tuple(
        " ".join(map(written, (*clock, days, month, weekdays)))
        for days, weekdays in wanted
        if MonthDates(days, month, weekdays).ever()
    )


def written(field: Field) -> str:
    if field.full:
        return "*"
    parts: Iterable[str] = map(str, field.values)
    if field.nth:
        parts = (f"{weekday}#{number}" for weekday, number in field.nth)
    return ",".join([*parts, *("L" for _ in field.picks)])


@lru_cache(maxsize=1024)
def compiled(expression: str) -> Any:
    # Imported at the first search: a process that only enqueues never needs it.
    from croniter import croniter

    return croniter(expression, datetime(2000, 1, 1), day_or=False, second_at_beginning=True)


def following(expressions: tuple[str, ...], wall: datetime) -> datetime | None:
    """The first wall time later than `wall` that matches any; None if there is none within 50 years."""
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
