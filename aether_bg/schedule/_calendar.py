"""Which dates a schedule names, and the wall times on them. No zones here: every datetime is naive, in whole seconds.

croniter cannot express nearest weekdays, days counted from the end of a month, or every nth week. This module finds
those, and counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from datetime import date, datetime
from typing import Final, Protocol

import attrs

from ._fields import LAST, Field
from ._model import LATEST

HORIZON: Final = 50
"""Years that a search covers. The longest wait is 40: for February 29 on a given weekday, across 2100."""
LENGTHS: Final = {1: (31,), 2: (28, 29), 3: (31,), 4: (30,), 5: (31,), 6: (30,), 7: (31,), 8: (31,), 9: (30,),
                  10: (31,), 11: (30,), 12: (31,)}  # fmt: skip


class Dates(Protocol):
    """A set of dates."""

    def falls(self, at: date) -> bool:
        """Whether the date is one of them."""

    def later(self, at: date) -> date | None:
        """The first of them after `at`; None: none within 50 years."""


@attrs.frozen
class MonthDates:
    """The dates of cron's three day fields. Which days of a month match depends only on its length and on the weekday
    of its first day. That makes 28 kinds of month."""

    day: Field
    month: Field
    weekday: Field
    _known: dict[tuple[int, int], tuple[int, ...]] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def falls(self, at: date) -> bool:
        return at.month in self.month.values and at.day in self.days(at.year, at.month)

    def later(self, at: date) -> date | None:
        day = at.day
        for number in range(at.year * 12 + at.month - 1, min((at.year + HORIZON) * 12, LATEST.year * 12 + 12)):
            year, month = divmod(number, 12)
            if month + 1 in self.month.values:
                days = self.days(year, month + 1)
                if (index := bisect_right(days, day)) < len(days):
                    return date(year, month + 1, days[index])
            day = 0
        return None

    def ever(self) -> bool:
        """Whether any date matches: in 400 years a month of each length begins on every weekday."""
        lengths = {length for month in self.month.values for length in LENGTHS[month]}
        return any(self.matching(length, first) for length in lengths for first in range(7))

    def days(self, year: int, month: int) -> tuple[int, ...]:
        first, length = monthrange(year, month)
        return self.matching(length, (first + 1) % 7)

    def matching(self, length: int, first: int) -> tuple[int, ...]:
        """The days of a month of that length whose day 1 is the weekday `first`, 0 being Sunday."""
        if (found := self._known.get((length, first))) is None:
            by_day = {number for number in self.day.values if number <= length}
            by_day |= {day for pick in self.day.picks if (day := pick.day(length, first)) is not None}
            by_weekday = {number for number in range(1, length + 1) if self.on_weekday(number, length, first)}
            # Either is enough where both are restricted; else both must match (crontab(5)).
            either = not self.day.star and not self.weekday.star
            found = tuple(sorted(by_day | by_weekday if either else by_day & by_weekday))
            self._known[length, first] = found
        return found

    def on_weekday(self, day: int, length: int, first: int) -> bool:
        weekday = (first + day - 1) % 7
        numbered, nth = ((day + 6) // 7, LAST if day + 7 > length else 0), self.weekday.nth
        return weekday in self.weekday.values or any((weekday, number) in nth for number in numbered)


@attrs.frozen
class Grid:
    """Every `step` days, counted from `origin`, the dates that lie `offsets` days after one of them."""

    origin: date
    step: int
    offsets: tuple[int, ...] = (0,)

    def falls(self, at: date) -> bool:
        return (at - self.origin).days % self.step in self.offsets

    def later(self, at: date) -> date | None:
        passed = (at - self.origin).days % self.step
        index = bisect_right(self.offsets, passed)
        ahead = self.offsets[index] if index < len(self.offsets) else self.step + self.offsets[0]
        ordinal = at.toordinal() + ahead - passed
        return date.fromordinal(ordinal) if ordinal <= LATEST.toordinal() else None


@attrs.frozen
class Walls:
    """Matching wall times: times of day on some dates."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    dates: Dates

    def following(self, wall: datetime) -> datetime | None:
        """The first matching wall time later than `wall`; None if there is none within 50 years."""
        found: datetime | None = None
        if self.dates.falls(wall.date()):
            found = self.later_that_day(wall)
        if found is None and (day := self.dates.later(wall.date())) is not None:
            found = datetime(day.year, day.month, day.day, self.hours[0], self.minutes[0], self.seconds[0])
        return found if found is not None and found < LATEST.replace(tzinfo=None) else None

    def later_that_day(self, wall: datetime) -> datetime | None:
        whole = wall.replace(microsecond=0, fold=0)
        if wall.hour in self.hours:
            if wall.minute in self.minutes and (second := above(self.seconds, wall.second)) is not None:
                return whole.replace(second=second)
            if (minute := above(self.minutes, wall.minute)) is not None:
                return whole.replace(minute=minute, second=self.seconds[0])
        if (hour := above(self.hours, wall.hour)) is not None:
            return whole.replace(hour=hour, minute=self.minutes[0], second=self.seconds[0])
        return None

    def count(self, after: datetime, upto: datetime) -> int:
        """Matching wall times later than `after`, up to and including `upto`. Costs about a microsecond a day."""
        if upto <= after:
            return 0
        falls, first, last = self.dates.falls, after.toordinal(), upto.toordinal()
        days = sum(falls(date.fromordinal(number)) for number in range(first, last + 1))
        a_day = len(self.seconds) * len(self.minutes) * len(self.hours)
        found = days * a_day
        if falls(after.date()):
            found -= self.times(after)
        if falls(upto.date()):
            found -= a_day - self.times(upto)
        return found

    def times(self, upto: datetime) -> int:
        """Matching times of day up to and including that of `upto`."""
        second, minute, hour = self.seconds, self.minutes, self.hours
        found = bisect_left(hour, upto.hour) * len(minute) * len(second)
        if upto.hour in hour:
            found += bisect_left(minute, upto.minute) * len(second)
            if upto.minute in minute:
                found += bisect_right(second, upto.second)
        return found


def above(values: tuple[int, ...], number: int) -> int | None:
    """The first of ascending values that is more than `number`."""
    index = bisect_right(values, number)
    return values[index] if index < len(values) else None
