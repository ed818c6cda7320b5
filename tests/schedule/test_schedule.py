"""The protocol: single occurrences, anchors, previews with their notes, words, threads, and what is cheap."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest

from aether_bg.errors import InvalidSchedule
from aether_bg.schedule import Schedule, Upcoming, parse

START = datetime(2026, 7, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALL: list[Any] = ["@once", "@every 1h", "0 * * * *", "30 2 * * *", START, HOUR]


@pytest.mark.parametrize("text", ALL)
def test_each_is_a_schedule_and_immutable(text: Any) -> None:
    schedule = parse(text, "Europe/Berlin")
    assert isinstance(schedule, Schedule)
    assert schedule.recurring is (text in ("@every 1h", "0 * * * *", "30 2 * * *"))
    assert hash(schedule) == hash(parse(text, "Europe/Berlin"))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        schedule.text = "x"  # type: ignore[misc]


@pytest.mark.parametrize(("text", "due"), [("@once", START), (HOUR, START + HOUR), (START - HOUR, START - HOUR)])
def test_a_single_occurrence(text: Any, due: datetime) -> None:
    schedule = parse(text)
    micro = timedelta(microseconds=1)
    assert schedule.first(START) == due  # also where it has passed
    assert schedule.next(due - micro, START) == due
    assert schedule.next(due, START) is None
    assert [upcoming.at for upcoming in schedule.upcoming(5, due - micro, START)] == [due]


def test_the_anchor_is_when_it_was_parsed() -> None:
    for text in ("@once", "@ONCE", "@every 1h", HOUR):
        before = datetime.now(UTC)
        schedules = [parse(text), parse(text)]
        after = datetime.now(UTC)
        anchors = [schedule.next(before - 2 * HOUR) for schedule in schedules]
        assert None not in anchors
        shift = timedelta(0) if text in ("@once", "@ONCE") else HOUR
        assert before <= anchors[0] - shift <= anchors[1] - shift <= after  # type: ignore[operator]


def test_every_keeps_to_its_anchor() -> None:
    schedule = parse("@every 7s")
    after = START + timedelta(days=1000, seconds=3, microseconds=1)
    due = schedule.next(after, START)
    assert due is not None
    assert (due - START) % timedelta(seconds=7) == timedelta(0)
    assert after < due <= after + timedelta(seconds=7)
    assert schedule.first(START) == schedule.next(START - HOUR, START) == START + timedelta(seconds=7)


def test_after_is_exclusive_to_the_microsecond() -> None:
    schedule = parse("0 3 * * *")
    three, micro = START + 3 * HOUR, timedelta(microseconds=1)
    assert schedule.next(three - micro) == three
    assert schedule.next(three) == schedule.next(three + micro) == three + 24 * HOUR


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_the_ends_of_the_calendar(text: Any, zone: str) -> None:
    schedule = parse(text, zone)
    for after in (datetime.min, datetime.max):
        for of in (UTC, ZoneInfo("Asia/Tokyo"), ZoneInfo("America/New_York")):
            here = after.replace(tzinfo=of)
            schedule.first(here)
            schedule.upcoming(3, here, here)
    assert schedule.next(datetime.max.replace(tzinfo=UTC), START) is None


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("wrong", [datetime(2026, 1, 1), None, 5, "2026-01-01"])
def test_a_naive_instant_is_refused(text: Any, wrong: Any) -> None:
    schedule = parse(text)
    with pytest.raises(InvalidSchedule, match=r"anchor|after"):
        schedule.first(wrong)
    with pytest.raises(InvalidSchedule, match="after"):
        schedule.next(wrong)


@pytest.mark.parametrize("n", [-1, 10_001, True, 1.5, None, "5"])
def test_a_number_of_previews(n: Any) -> None:
    for text in ALL:
        with pytest.raises(InvalidSchedule, match="0 to 10000"):
            parse(text).upcoming(n)


def preview(text: str, zone: str, after: str, n: int = 4) -> list[tuple[str, str | None, str | None]]:
    coming = parse(text, zone).upcoming(n, datetime.fromisoformat(after))
    return [(f"{here.at:%d %H:%M:%S%z}", here.note, here.reason) for here in coming]


def test_a_fixed_time_in_a_gap_is_moved() -> None:
    reason = (
        "2026-03-29 02:30:00 does not exist: the clock is set forward from 2026-03-29 02:00:00 to 2026-03-29 03:00:00"
    )
    assert preview("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00Z", 3) == [
        ("28 02:30:00+0100", None, None),
        ("29 03:00:00+0200", "moved", reason),
        ("30 02:30:00+0200", None, None),
    ]


def test_a_fixed_time_that_comes_twice_runs_once() -> None:
    assert preview("30 1 * * *", "America/New_York", "2026-10-31T12:00Z", 2) == [
        ("01 01:30:00-0400", None, None),
        ("02 01:30:00-0500", None, None),
    ]


def test_a_frequency_in_a_repeated_hour_is_doubled() -> None:
    reason = (
        "2026-11-01 01:{}:00 comes a second time: the clock is set back from 2026-11-01 02:00:00 to 2026-11-01 01:00:00"
    )
    assert preview("*/30 * * * *", "America/New_York", "2026-11-01T05:15Z") == [
        ("01 01:30:00-0400", None, None),
        ("01 01:00:00-0500", "doubled", reason.format("00")),
        ("01 01:30:00-0500", "doubled", reason.format("30")),
        ("01 02:00:00-0500", None, None),
    ]


def test_a_frequency_in_a_gap_does_not_run() -> None:
    assert [at for at, *_ in preview("*/20 2 * * *", "Europe/Berlin", "2026-03-28T01:30Z")] == [
        "28 02:40:00+0100",
        "30 02:00:00+0200",
        "30 02:20:00+0200",
        "30 02:40:00+0200",
    ]


def test_half_an_hour_back_on_lord_howe() -> None:
    assert [at for at, *_ in preview("*/20 * * * *", "Australia/Lord_Howe", "2026-04-04T14:30Z", 6)] == [
        "05 01:40:00+1100",
        "05 01:40:00+1030",
        "05 02:00:00+1030",
        "05 02:20:00+1030",
        "05 02:40:00+1030",
        "05 03:00:00+1030",
    ]


def test_a_skipped_day_is_kept() -> None:
    [_, moved, usual] = preview("30 2 * * *", "Pacific/Apia", "2011-12-29T00:00Z", 3)
    assert moved[:2] == ("31 00:00:00+1400", "moved")
    assert usual[:2] == ("31 02:30:00+1400", None)


def test_a_gap_that_ends_the_day() -> None:
    [saturday, *_] = preview("30 23 * * SAT", "America/Nuuk", "2026-03-28T12:00Z", 1)
    assert saturday[:2] == ("29 00:00:00-0100", "moved")


def test_times_that_meet_are_one_occurrence() -> None:
    assert [at for at, *_ in preview("0,15,30,45 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00Z", 3)] == [
        "29 03:00:00+0200",
        "29 03:15:00+0200",
        "29 03:30:00+0200",
    ]


def test_a_preview_is_in_the_zone() -> None:
    for text in ("@every 1h", HOUR, "0 * * * *"):
        [here] = parse(text, "Asia/Tokyo").upcoming(1)
        assert isinstance(here, Upcoming)
        assert str(here.at.tzinfo) == "Asia/Tokyo"
        [here] = parse(text).upcoming(1)
        assert here.at.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("30 2 * * MON", "at 02:30 every Monday"),
        ("30 2 * * *", "at 02:30 every day"),
        ("0 9,17 * * MON-FRI", "at 09:00 and 17:00 every Monday to Friday"),
        ("15 30 2 * * *", "at 02:30:15 every day"),
        ("@daily", "at 00:00 every day"),
        ("@hourly", "every hour"),
        ("@weekly", "at 00:00 every Sunday"),
        ("@monthly", "at 00:00 on day 1 of the month"),
        ("@yearly", "at 00:00 on day 1 of January"),
        ("* * * * *", "every minute"),
        ("* * * * * *", "every second"),
        ("*/10 * * * * *", "every 10 seconds"),
        ("*/15 * * * *", "every 15 minutes"),
        ("0 */2 * * *", "every 2 hours"),
        ("5 * * * *", "at minute 5 of every hour"),
        ("5,35 * * * *", "at minutes 5 and 35 of every hour"),
        ("*/7 9 * * *", "at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 of hour 9"),
        ("*/15 9-17 * * SAT,SUN", "every 15 minutes during hours 9 to 17 every Saturday and Sunday"),
        ("0 0 L * *", "at 00:00 on the last day of the month"),
        ("15 * * * * *", "at second 15 of every minute"),
        (
            "30 */5 * * * *",
            "at second 30 of minutes 0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50 and 55 of every hour",
        ),
        ("0 0 1,15,L * *", "at 00:00 on days 1 and 15 and the last day of the month"),
        ("0 0 * * FRI#2", "at 00:00 on the 2nd Friday of the month"),
        ("0 0 13 * FRI", "at 00:00 on day 13 of the month or every Friday"),
        ("0 0 */15 * FRI", "at 00:00 on days 1, 16 and 31 of the month, if that is Friday"),
        ("0 0 29 2 */6", "at 00:00 on day 29 of February, if that is Saturday or Sunday"),
        ("0 0 * JAN,JUN-AUG MON", "at 00:00 every Monday in January and June to August"),
        ("0 0 * 3 *", "at 00:00 every day in March"),
        ("*/15 * * 3 *", "every 15 minutes in March"),
        ("0 0 1-31 * MON", "at 00:00 every day"),
        ("0 0 * * FRI-MON", "at 00:00 every Monday and Friday to Sunday"),
    ],
)
def test_words(text: str, words: str) -> None:
    assert parse(text).describe() == f"{words}, UTC"
    assert parse(text, "Europe/Berlin").describe() == f"{words}, Europe/Berlin"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@once", "once, now"),
        (HOUR, "once, after 1 hour"),
        (START, "once, at 2026-07-01 02:00:00, Europe/Berlin"),
        (timedelta(0), "once, after no time"),
        ("@every 1h30m", "every 1 hour 30 minutes"),
        ("@every PT90S", "every 1 minute 30 seconds"),
        ("@every 100ms", "every 100 milliseconds"),
        ("@every P1W", "every 7 days"),
    ],
)
def test_words_without_a_calendar(text: Any, words: str) -> None:
    assert parse(text, "Europe/Berlin").describe() == words


def test_threads_share_a_schedule() -> None:
    schedule = parse("*/7 * * * *", "Europe/Berlin")
    starts = [START + timedelta(hours=11 * n) for n in range(2000)]
    expected = [schedule.next(start) for start in starts]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(schedule.next, starts)) == expected
    finally:
        sys.setswitchinterval(usual)


def test_parsing_again_is_cheap() -> None:
    parse("@once")

    def cost(text: str) -> float:
        begin = perf_counter()
        for _ in range(1000):
            parse(text)
        return (perf_counter() - begin) / 1000

    assert min(cost("@once") for _ in range(5)) < 20e-6
    assert min(cost("30 2 * * MON") for _ in range(5)) < 20e-6


def test_croniter_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from aether_bg.schedule import parse; parse('30 2 * * *'); parse('@once');"
        " sys.exit('croniter' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
