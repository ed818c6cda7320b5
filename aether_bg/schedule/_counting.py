"""How many occurrences a period has, calculated from the fields without visiting each of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

from ._fields import Field
from ._zone import SECOND, Clock

DAY = timedelta(days=1)


def matches(fields: tuple[Field, ...], after: datetime, upto: datetime) -> int:
    """Matching wall times later than `after`, up to and including `upto`. Both naive."""
    if upto <= after:
        return 0
    *clock, _, _, _ = fields
    falls = calendar(fields)
    first, last = after.toordinal(), upto.toordinal()
    days = sum(falls(date.fromordinal(number)) for number in range(first, last + 1))
    a_day = 1
    for field in clock:
        a_day *= len(field.values)
    found = days * a_day
    if falls(after.date()):
        found -= times(clock, after)
    if falls(upto.date()):
        found -= a_day - times(clock, upto)
    return found


def times(clock: list[Field], upto: datetime) -> int:
    """Matching times of day up to and including that of `upto`."""
    second, minute, hour = (field.values for field in clock)
    found = bisect_left(hour, upto.hour) * len(minute) * len(second)
    if upto.hour in hour:
        found += bisect_left(minute, upto.minute) * len(second)
        if upto.minute in minute:
            found += bisect_right(second, upto.second)
    return found


def calendar(fields: tuple[Field, ...]) -> Callable[[date], bool]:
    """Whether a date matches the three fields that name days."""
    day, month, weekday = fields[3:]
    either = not day.star and not weekday.star

    def falls(at: date) -> bool:
        if at.month not in month.values:
            return False
        by_day = at.day in day.values or (day.last and at.day == monthrange(at.year, at.month)[1])
        number = at.isoweekday() % 7
        by_weekday = number in weekday.values or (number, (at.day + 6) // 7) in weekday.nth
        return by_day or by_weekday if either else by_day and by_weekday

    return falls


def seams(clock: Clock, after: datetime, upto: datetime) -> Iterator[datetime]:
    """Where the wall clock is set forward or back, later than `after` and up to `upto`: at most one a day."""
    if clock.zone is UTC:
        return
    while after < upto:
        later = min(after + DAY, upto)
        if clock.offset(after) != clock.offset(later):
            yield clock.seam(after, later)
        after = later


def frequencies(fields: tuple[Field, ...], clock: Clock, after: datetime, upto: datetime) -> int:
    """Occurrences of a schedule in real time: whatever the clock shows, as often as it shows it."""
    found, wall = 0, clock.wall(after)
    for seam in seams(clock, after, upto):
        shown, again = clock.around(seam)
        found += matches(fields, wall, shown - SECOND)
        wall = again - SECOND
    return found + matches(fields, wall, clock.wall(upto))


def fixed(fields: tuple[Field, ...], clock: Clock, reached: datetime, after: datetime, upto: datetime) -> int:
    """Occurrences of fixed times: each when the clock first shows it or, in a gap, all of them as one at its end.

    `reached`: the latest wall time that the clock has shown by `after`.
    """
    found = 0
    for seam in seams(clock, after, upto):
        shown, again = clock.around(seam)
        found += matches(fields, reached, shown - SECOND)
        reached = max(reached, shown - SECOND)
        found += matches(fields, reached, again) > 0
        reached = max(reached, again)
    return found + matches(fields, reached, clock.wall(upto))
