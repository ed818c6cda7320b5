"""`count` reckons as many occurrences as `next` would visit, around every kind of change of the wall clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from aether_bg.schedule import Schedule, parse

from .expressions import expression, refusal
from .oracle import changes
from .test_oracle import ZONES

CASES = 6
MOST = 60
MICRO = timedelta(microseconds=1)


def walked(schedule: Schedule, after: datetime, upto: datetime) -> int | None:
    """None: more than are worth visiting."""
    found, due = 0, schedule.next(after)
    while due is not None and due <= upto:
        found += 1
        if found > MOST:
            return None
        due = schedule.next(due)
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_count_equals_the_walk(zone: str) -> None:
    random, compared = Random(f"count {zone}"), 0
    texts = [text for text in (expression(random) for _ in range(CASES)) if refusal(text) is None]
    texts += ["30 1 * * *", "30 2 * * *", "0 0 * * *", "*/20 * * * *", "0 * * * *", "0,30 0-4 * * *", "0 3 L * FRI#2"]
    for change in changes(zone)[:3] or [datetime(2028, 2, 29, tzinfo=UTC)]:
        for text in texts:
            schedule = parse(text, zone)
            edges = [timedelta(0), MICRO, -MICRO, timedelta(minutes=30), timedelta(minutes=-90)]
            after = change - timedelta(hours=random.randint(0, 40)) + random.choice(edges)
            upto = change + timedelta(hours=random.randint(0, 40)) + random.choice(edges)
            expected = walked(schedule, after, upto)
            if expected is not None:
                compared += 1
                assert schedule.count(after, upto) == expected, (text, zone, after, upto)
    assert compared > 5


@pytest.mark.parametrize("text", ["@every 7s", "@every 100ms", "@every 1h30m"])
def test_count_of_a_length(text: str) -> None:
    anchor, schedule = datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC), parse(text)
    for before in (-10, 0, 3, 3600):
        after = anchor + timedelta(seconds=before)
        for length in (timedelta(0), MICRO, timedelta(seconds=7), timedelta(seconds=20)):
            due, expected = schedule.next(after, anchor), 0
            while due is not None and due <= after + length:
                due, expected = schedule.next(due, anchor), expected + 1
            assert schedule.count(after, after + length, anchor) == expected
    ages = schedule.count(anchor, anchor + timedelta(days=365 * 300), anchor)
    assert ages == timedelta(days=365 * 300) // (schedule.next(anchor, anchor) - anchor)


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_count_over_decades_is_quick(zone: str | None) -> None:
    schedule = parse("*/5 * * * * *", zone)
    began = time.perf_counter()
    assert schedule.count(datetime(2000, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)) == 7305 * 17280
    assert time.perf_counter() - began < 2
