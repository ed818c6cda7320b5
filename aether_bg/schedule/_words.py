"""Cron schedules in words, for people: `at 02:30 every Monday`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ._fields import LAST, Field, Pick

WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")  # fmt: skip
ORDINALS = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 5: "5th", LAST: "last"}
MOST_TIMES = 6
"""Times of day that are listed. If there are more, the fields are described."""


def describe(fields: tuple[Field, ...], *, frequency: bool) -> str:
    second, minute, hour, day, month, weekday = fields
    listed = len(second.values) == 1 and len(hour.values) * len(minute.values) <= MOST_TIMES
    if listed and not frequency:
        suffix = f":{second.values[0]:02}" if second.values[0] else ""
        times = "at " + series(f"{h:02}:{m:02}{suffix}" for h in hour.values for m in minute.values)
    else:
        times = repeated(second, minute, hour)
    dates = days(day, month, weekday)
    if listed and not frequency and not dates.startswith(("on", "every")):
        times += " every day"
    return f"{times} {dates}".rstrip()


def repeated(second: Field, minute: Field, hour: Field) -> str:
    """The time of day field by field, from the finest on: `every 15 minutes during hour 2`."""
    units = [(second, "second"), (minute, "minute"), (hour, "hour")]
    while len(units) > 1 and units[0][0].values == (0,) and (len(units) == 3 or interval(hour)):
        del units[0]
    (finest, unit), *coarser = units
    step = interval(finest)
    words = f"at {numbers(finest, unit)}" if step is None else every(step, unit)
    restricted = step is None
    for field, unit in coarser:
        if field.full:
            words += f" of every {unit}" if restricted else ""
        else:
            words += f" {'of' if restricted else 'during'} {numbers(field, unit)}"
        restricted = not field.full
    return words


def interval(field: Field) -> int | None:
    """n if the field is every nth value from 0 with no rest at its end, so that `every n` holds across it."""
    step = field.kind.size // len(field.values)
    whole = len(field.values) > 1 and field.values == tuple(range(0, field.kind.size, step))
    return step if whole and field.kind.size % step == 0 else None


def days(day: Field, month: Field, weekday: Field) -> str:
    """The dates; '' if they are all."""
    months = "" if month.full else series(spans(month.values, MONTHS, first=1))
    within = f" in {months}" if months else ""
    of = f" of {months or 'the month'}"
    dates = f"on {month_days(day)}{of}"
    both = day.star or weekday.star
    if weekday.full or (day.full and not both):
        return dates if both and not day.full else within.strip()
    if weekday.nth:
        week = [f"the {ORDINALS[number]} {WEEKDAYS[name]}" for name, number in weekday.nth]
        weeks = f"on {series(week)}{of}"
    else:
        week = weekday_names(weekday.values)
        weeks = f"every {series(week)}{within}"
    if day.full:
        return weeks
    return f"{dates}, if that is {series(week, 'or')}" if both else f"{dates} or {weeks}"


def weekday_names(values: Iterable[int]) -> list[str]:
    """0 is Sunday. A week begins on Monday here: Monday to Friday, Saturday and Sunday."""
    order = sorted((number - 1) % 7 for number in values)
    return [*spans(order, (*WEEKDAYS[1:], WEEKDAYS[0]), first=0)]


def month_days(day: Field) -> str:
    named = [numbers(day, "day")] if day.values else []
    return series([*named, *map(picked, day.picks)])


def picked(pick: Pick) -> str:
    if pick.from_end and not pick.number:
        return "the last weekday (Monday to Friday)" if pick.nearest else "the last day"
    day = f"day {pick.number}"
    if pick.from_end:
        day = f"the day {pick.number} day{'' if pick.number == 1 else 's'} before the last"
    return f"the weekday (Monday to Friday) nearest to {day}" if pick.nearest else day


def every(step: int, unit: str) -> str:
    return f"every {unit}" if step == 1 else f"every {step} {unit}s"


def numbers(field: Field, unit: str) -> str:
    names = tuple(map(str, range(60)))
    return f"{unit}{'' if len(field.values) == 1 else 's'} {series(spans(field.values, names, first=0))}"


def spans(values: Sequence[int], names: Sequence[str], *, first: int) -> Iterator[str]:
    """Names of ascending values, three or more in a row as `a to c`; `first` is the first name's value."""
    for _, group in groupby(enumerate(values), lambda pair: pair[1] - pair[0]):
        run = [names[value - first] for _, value in group]
        yield from [f"{run[0]} to {run[-1]}"] if len(run) > 2 else run


def series(words: Iterable[str], link: str = "and") -> str:
    """`a, b and c`."""
    *front, last = words
    return f"{', '.join(front)} {link} {last}" if front else last
