"""Every occurrence is the one the wall clock shows: against the slow oracle, around every kind of change."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from random import Random

import pytest

from aether_bg.schedule import Schedule, parse

from .expressions import expression, refusal
from .oracle import Oracle, Window, changes

CASES = os.environ.get("AETHER_SCHEDULE_CASES")
"""Expressions for each zone; 3000 for the full run, else 20 with `--thorough` and 10 without it."""

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Europe/Dublin",  # negative: winter time is the deviation
    "Australia/Lord_Howe",  # half an hour
    "Antarctica/Troll",  # two hours
    "America/Havana",  # at midnight, into it
    "Asia/Beirut",  # midnight skipped
    "Africa/Cairo",  # midnight skipped, at the end of a day back
    "America/Santiago",  # midnight skipped, at the end of a day back
    "America/Nuuk",  # the last hour of a day skipped
    "America/Sao_Paulo",  # midnight skipped, until 2019
    "Africa/Casablanca",  # back for Ramadan
    "Asia/Tehran",
    "Asia/Pyongyang",  # half an hour, once back and once forward, and not for the summer
    "Asia/Kathmandu",  # a quarter of an hour, once
    "Pacific/Apia",  # 2011-12-30 skipped
    "Pacific/Kwajalein",  # 1993-08-21 skipped
]

BEFORE, AFTER = timedelta(days=2), timedelta(days=2)
MOST = 12
"""Occurrences compared from each start."""


@cache
def expressions(cases: int) -> list[tuple[str, Oracle]]:
    """The same for every zone; those that never come have no occurrences to compare."""
    random = Random(2026)
    kept: list[tuple[str, Oracle]] = []
    while len(kept) < cases:
        text = expression(random)
        if (refused := refusal(text)) is not None:
            assert "never comes" in refused.reason, text
            assert slow_next(Oracle(text), datetime(2071, 3, 1, tzinfo=UTC)) is None, text
            continue
        kept.append((text, Oracle(text)))
    return kept


@pytest.fixture(scope="module")
def some(pytestconfig: pytest.Config) -> list[tuple[str, Oracle]]:
    return expressions(int(CASES or (20 if pytestconfig.getoption("--thorough") else 10)))


@cache
def windows(zone: str) -> list[tuple[datetime, Window]]:
    moments = changes(zone) or [datetime(2026, 3, 1, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC)]
    return [(moment, Window(zone, moment - BEFORE, BEFORE + AFTER)) for moment in moments]


def starts(random: Random, change: datetime) -> list[datetime]:
    """Anywhere, just before the change, in the hours around it, and at it to the microsecond."""
    micro = timedelta(microseconds=1)
    return [
        change + timedelta(seconds=random.uniform(-40 * 3600, 40 * 3600)),
        change - timedelta(seconds=random.randint(0, 9)),
        change + timedelta(minutes=random.randint(-150, 150)),
        change + random.choice((-micro, timedelta(0), micro)),
    ]


def coming(schedule: Schedule, after: datetime, end: datetime) -> list[datetime]:
    """What the schedule says is due in (after, end), at most MOST."""
    due: list[datetime] = []
    here: datetime | None = after
    while here is not None and len(due) < MOST:
        here = schedule.next(here)
        if here is None or here >= end:
            break
        due.append(here)
    return due


@pytest.mark.parametrize("zone", ZONES)
def test_occurrences_are_those_of_the_oracle(zone: str, some: list[tuple[str, Oracle]]) -> None:
    random = Random(zone)
    for text, oracle in some:
        if (refused := refusal(text, zone)) is not None:
            assert "always skips" in refused.reason, (text, zone)
            continue
        schedule = parse(text, zone)
        change, window = random.choice(windows(zone))
        watched = list(oracle.watch(window))
        for after in starts(random, change):
            expected = list(islice((instant for instant in watched if instant > after), MOST))
            found = coming(schedule, after, window.end)
            assert found == expected, f"{text!r} in {zone} after {after}"
            assert all(here.utcoffset() == timedelta(0) for here in found)
            assert all(a < b for a, b in zip([after, *found], found, strict=False))


def test_dates_are_those_of_the_calendar(some: list[tuple[str, Oracle]]) -> None:
    """Rare dates, walked day by day through as many years as it takes."""
    random = Random(1582)
    for text, oracle in some:
        start = datetime(random.randint(1600, 2300), random.randint(1, 12), 28, 12, 30, tzinfo=UTC)
        schedule = parse(text)
        here = start
        for _ in range(3):
            found = schedule.next(here)
            assert found == slow_next(oracle, here), f"{text!r} after {here}"
            assert found is not None
            here = found


def slow_next(oracle: Oracle, after: datetime) -> datetime | None:
    seconds, minutes, hours = (sorted(values) for values in oracle.clock)
    day = after.date()
    while day.year < after.year + 41:
        if oracle.on(day):
            for hour in hours:
                for minute in minutes:
                    for second in seconds:
                        here = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=UTC)
                        if here > after:
                            return here
        day += timedelta(days=1)
    return None
