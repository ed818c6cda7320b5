"""The rule for daylight saving, told slowly: the wall clock of a zone is watched minute by minute.

Written from the rules alone, with a reader of expressions of its own and without croniter. It knows the six
fields but no words, takes only valid expressions, and needs zones whose clock changes at full minutes.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"
WEEKDAYS = "SUN MON TUE WED THU FRI SAT"


def names(field: str, wanted: int, low: int, high: int, words: str = "") -> bool:
    """Whether `field` names the value `wanted`."""
    for part in field.upper().split(","):
        base, _, step = part.partition("/")
        begin, _, end = base.partition("-")
        if begin in ("*", "?"):
            first, last = low, high
        else:
            first = to_number(begin, low, words)
            last = to_number(end, low, words) if end else (high if step else first)
        size = high - low + 1
        if last < first:
            last += size
        if any((here - low) % size + low == wanted for here in range(first, last + 1, int(step or 1))):
            return True
    return False


def picked(part: str, day: date) -> bool:
    """`L`, `L-3`, `15W`, `LW`: looked for among the days of the month, the nearest weekday day by day."""
    days = [day.replace(day=n + 1) for n in range(calendar.monthrange(day.year, day.month)[1])]
    word = part.removesuffix("W")
    wanted = len(days) - 1 - int(word[2:] or 0) if word[0] == "L" else int(word) - 1
    if not 0 <= wanted < len(days):
        return False
    if part == word:
        return day == days[wanted]
    working = [other for other in days if other.strftime("%a") not in ("Sat", "Sun")]
    return day == min(working, key=lambda other: abs(other - days[wanted]))


def to_number(word: str, low: int, words: str) -> int:
    return int(word) if word.isdigit() else words.split().index(word) + low


@dataclass(frozen=True)
class Oracle:
    text: str

    @cached_property
    def fields(self) -> list[str]:
        fields = self.text.split()
        return ["0", *fields] if len(fields) == 5 else fields

    @cached_property
    def clock(self) -> tuple[set[int], set[int], set[int]]:
        """Seconds, minutes and hours."""
        second, minute, hour, *_ = self.fields
        return (
            {n for n in range(60) if names(second, n, 0, 59)},
            {n for n in range(60) if names(minute, n, 0, 59)},
            {n for n in range(24) if names(hour, n, 0, 23)},
        )

    @cached_property
    def frequency(self) -> bool:
        return any(sign in field for field in self.fields[1:3] for sign in "*/")

    @lru_cache(maxsize=100_000)  # noqa: B019 - oracles live as long as the tests
    def on(self, day: date) -> bool:
        """Whether the date matches."""
        of_month, month, of_week = self.fields[3:]
        if not names(month, day.month, 1, 12, MONTHS):
            return False
        by_day = any(
            picked(part, day) if part[0] == "L" or part[-1] == "W" else names(part, day.day, 1, 31)
            for part in of_month.upper().split(",")
        )
        by_week = False
        for part in of_week.upper().split(","):
            if part[-1] == "L":
                last = (day + timedelta(days=7)).month != day.month
                by_week |= last and names(part[:-1], day.isoweekday() % 7, 0, 6, WEEKDAYS)
                continue
            weekday, _, number = part.partition("#")
            right = names(weekday, day.isoweekday() % 7, 0, 6, WEEKDAYS)
            by_week |= right and (not number or (day.day - 1) // 7 + 1 == int(number))
        if any(sign in field for field in (of_month, of_week) for sign in "*?"):
            return by_day and by_week
        return by_day or by_week

    def minute(self, wall: datetime) -> bool:
        """Whether an occurrence is named in this minute of the wall clock."""
        _, minutes, hours = self.clock
        return wall.minute in minutes and wall.hour in hours and self.on(wall.date())

    def watch(self, window: Window) -> Iterator[datetime]:
        """Every occurrence in the window, from its first minute on."""
        seconds = sorted(self.clock[0])
        shown = window.walls[0]  # the furthest the clock has been
        for number, wall in enumerate(window.walls):
            now = window.begin + number * MINUTE
            if self.frequency:
                if self.minute(wall):
                    yield from (now + timedelta(seconds=second) for second in seconds)
                continue
            if wall <= shown:
                continue
            moved = False
            while (shown := shown + MINUTE) < wall:
                moved |= self.minute(shown)
            own = seconds if self.minute(wall) else []
            yield from (now + timedelta(seconds=second) for second in sorted({*([0] if moved else []), *own}))


@dataclass(frozen=True)
class Window:
    """A stretch of time in a zone, and what the wall clock shows in each of its minutes."""

    zone: str
    begin: datetime
    length: timedelta

    @cached_property
    def walls(self) -> list[datetime]:
        zone = ZoneInfo(self.zone)
        return [
            (self.begin + number * MINUTE).astimezone(zone).replace(tzinfo=None)
            for number in range(self.length // MINUTE)
        ]

    @property
    def end(self) -> datetime:
        return self.begin + self.length


def changes(name: str, first: int = 1975, last: int = 2036) -> list[datetime]:
    """Instants at which the zone's clock changes: of each size of change the first and the last two."""
    zone = ZoneInfo(name)
    found: dict[timedelta, list[datetime]] = {}
    day, offset = datetime(first, 1, 1, tzinfo=UTC), None
    while day.year <= last:
        before, offset = offset, day.astimezone(zone).utcoffset()
        if before is not None and offset is not None and before != offset:
            found.setdefault(offset - before, []).append(day - 5 * DAY)
        day += 5 * DAY

    def changed(here: datetime) -> datetime:
        before = here.astimezone(zone).utcoffset()
        for step in (DAY, MINUTE):
            while (here + step).astimezone(zone).utcoffset() == before:
                here += step
        return here + MINUTE

    return [changed(day) for day in sorted({day for days in found.values() for day in (days[0], *days[-2:])})]
