"""`@every 2 weeks on MON at 09:00` against a reference that walks from day to day."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aether_bg._rules.recurrence import Plan
from aether_bg.schedule import parse
from aether_bg.schedule._days import EveryDays

DAY = timedelta(days=1)
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
ZONES = ("UTC", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia", "America/New_York")


def reached(zone: str, day: date, at: time) -> datetime:
    """When the wall clock first shows that time or, in a gap, the first later one: minute by minute."""
    wanted = datetime.combine(day, at)
    here = wanted.replace(tzinfo=UTC) - timedelta(hours=15)  # no zone is that far ahead of UTC
    step = timedelta(minutes=1)
    while here.astimezone(ZoneInfo(zone)).replace(tzinfo=None) < wanted:
        here += step
    return here


def reference(zone: str, origin: datetime, unit: str, number: int, on: set[str], at: time, after: datetime) -> datetime:
    """Day by day: the days since the origin are counted as a person would, on a calendar."""
    first = origin.astimezone(ZoneInfo(zone)).date()
    day = after.astimezone(ZoneInfo(zone)).date() - 2 * DAY
    while True:
        passed = (day - first).days
        if unit == "day":
            named = passed % number == 0
        else:
            wanted = on or {WEEKDAYS[first.weekday()]}
            named = (passed // 7) % number == 0 and WEEKDAYS[day.weekday()] in wanted
        if named and (due := reached(zone, day, at)) > after:
            return due
        day += DAY


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, str, datetime, str, int, set[str], time, datetime]:
    zone = draw(st.sampled_from(ZONES))
    unit = draw(st.sampled_from(("day", "week")))
    number = draw(st.integers(1, 5))
    on = draw(st.sets(st.sampled_from(WEEKDAYS), max_size=3)) if unit == "week" else set()
    at = time(draw(st.sampled_from((0, 1, 2, 3, 9, 23))), draw(st.sampled_from((0, 15, 30, 59))))
    around = draw(st.sampled_from(("2026-03-08", "2026-03-29", "2026-04-05", "2026-10-25", "2028-02-29", "2011-12-30")))
    origin = datetime.fromisoformat(f"{around}T00:00Z") - timedelta(hours=draw(st.integers(0, 40 * 24)))
    after = datetime.fromisoformat(f"{around}T00:00Z") + timedelta(minutes=draw(st.integers(-3 * 1440, 3 * 1440)))
    days = f" on {','.join(sorted(on))}" if on else ""
    text = f"@every {number} {unit}s{days} at {at:%H:%M}"
    return text, zone, origin, unit, number, on, at, after


def test_occurrences_are_those_of_the_reference(pytestconfig: pytest.Config) -> None:
    @given(cases())
    @settings(max_examples=150 if pytestconfig.getoption("--thorough") else 75, deadline=None)
    def agree(case: tuple[str, str, datetime, str, int, set[str], time, datetime]) -> None:
        agrees(*case)

    agree()


def agrees(
    text: str, zone: str, origin: datetime, unit: str, number: int, on: set[str], at: time, after: datetime
) -> None:
    schedule = parse(text, zone)
    assert isinstance(schedule, EveryDays)
    here = after
    for _ in range(3):
        due = schedule.next(here, origin)
        expected = reference(zone, origin, unit, number, on, at, here)
        assert due == expected, (text, zone, origin, here)
        here = expected
    assert schedule.count(after, here, origin) == 3
    assert [one.at for one in schedule.upcoming(3, after, origin)][-1] == here


def test_the_time_of_day_is_kept_by_the_wall_clock() -> None:
    start = datetime(2026, 3, 16, 9, tzinfo=ZoneInfo("Europe/Berlin"))
    schedule = parse("@every 2 weeks on MON at 09:00", "Europe/Berlin")
    due = [one.at.isoformat() for one in schedule.upcoming(3, start - timedelta(seconds=1), start)]
    assert due == ["2026-03-16T09:00:00+01:00", "2026-03-30T09:00:00+02:00", "2026-04-13T09:00:00+02:00"]


def test_a_skipped_time_moves_and_a_repeated_one_runs_once() -> None:
    spring = datetime(2026, 3, 27, tzinfo=UTC)
    notes = [one.note for one in parse("@every 2 days at 02:30", "Europe/Berlin").upcoming(3, spring, spring)]
    assert notes == [None, "moved", None]
    autumn = datetime(2026, 10, 23, tzinfo=UTC)
    coming = parse("@every 2 days at 02:30", "Europe/Berlin").upcoming(3, autumn, autumn)
    assert [f"{one.at:%d %H:%M}" for one in coming] == ["23 02:30", "25 02:30", "27 02:30"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@every day at 09:00", "at 09:00 every day, Europe/Berlin"),
        ("@every 3 days at 02:30:15", "at 02:30:15 every 3 days from its start, Europe/Berlin"),
        ("@every week at 09:00", "at 09:00 every week from its start, Europe/Berlin"),
        ("@every 2 weeks on MON at 09:00", "at 09:00 on Monday, every 2 weeks from its start, Europe/Berlin"),
        ("@every 2 weeks on MON-FRI,SUN at 9:00",
         "at 09:00 on Monday to Friday and Sunday, every 2 weeks from its start, Europe/Berlin"),
        ("0 9 L-3 * *", "at 09:00 on the day 3 days before the last of the month, Europe/Berlin"),
        ("0 9 LW * *", "at 09:00 on the last weekday (Monday to Friday) of the month, Europe/Berlin"),
        ("0 9 15W JAN,JUL *",
         "at 09:00 on the weekday (Monday to Friday) nearest to day 15 of January and July, Europe/Berlin"),
        ("0 9 * * 5L", "at 09:00 on the last Friday of the month, Europe/Berlin"),
    ],
)  # fmt: skip
def test_words(text: str, words: str) -> None:
    assert parse(text, "Europe/Berlin").describe() == words


def test_each_date_of_a_skipped_day_has_its_run() -> None:
    """Apia had no 2011-12-30: what that day names runs when the next one begins."""
    begin = datetime(2011, 12, 28, tzinfo=UTC)
    coming = parse("@every day at 10:00", "Pacific/Apia").upcoming(4, begin, begin)
    assert [(f"{one.at:%d %H:%M}", one.note) for one in coming] == [
        ("28 10:00", None), ("29 10:00", None), ("31 00:00", "moved"), ("31 10:00", None),
    ]  # fmt: skip


@pytest.mark.parametrize("start", [None, datetime(2026, 1, 5, tzinfo=UTC)])
def test_a_clock_that_was_set_back_keeps_the_weeks(start: datetime | None) -> None:
    """The anchor lies in the future then, and bounds nothing; what is counted from stays (docs/protocol.md, R5)."""
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    plan = Plan(parse("@every 2 weeks on MON at 09:00"), now + timedelta(days=30), start, None, None)
    later, again = plan.after(plan.anchor), plan.grounded(now).after(now)
    assert later is not None
    assert again is not None
    assert now < again < now + timedelta(days=15)
    assert (later - again).days % 14 == 0


def test_what_is_counted_from_is_no_part_of_the_text() -> None:
    """Equal, stored and loaded like any other schedule; each parse has its own anchor."""
    schedule = parse("CRON_TZ=Asia/Tokyo @every 2 weeks at 09:00")
    assert (schedule.text, schedule.timezone) == ("@every 2 weeks at 09:00", "Asia/Tokyo")
    assert schedule == parse("@every 2 weeks at 09:00", "Asia/Tokyo")
    assert schedule.next(datetime.now(UTC)) is not None
