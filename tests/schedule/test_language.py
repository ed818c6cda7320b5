"""What the language accepts, what it means, and what it refuses with which reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_bg.errors import AetherError, InvalidSchedule
from aether_bg.schedule import _lengths, _zone, load, parse

START = datetime(2026, 7, 1, tzinfo=UTC)  # a Wednesday


def due(text: Any, n: int = 3, zone: str | None = None) -> list[str]:
    return [f"{upcoming.at:%m-%d %H:%M:%S}" for upcoming in parse(text, zone).upcoming(n, START, START)]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@MIDNIGHT", "0 0 * * *"),
        ("@Weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("0 0 * * 7", "0 0 * * SUN"),
        ("0 0 * * 0", "0 0 * * sun"),
        ("0 0 * * 5-7", "0 0 * * FRI,SAT,SUN"),
        ("0 0 * * FRI-MON", "0 0 * * 0,1,5,6"),
        ("0 0 * * FRI-MON/2", "0 0 * * FRI,SUN"),
        ("0 0 * * SAT-TUE/3", "0 0 * * SAT,TUE"),
        ("0 0 * * MON-MON", "0 0 * * 1"),
        ("0 0 1 NOV-FEB *", "0 0 1 1,2,11,12 *"),
        ("0 0 1 nov-feb/3 *", "0 0 1 11,2 *"),
        ("5-5 * * * *", "5 * * * *"),
        ("5/15 * * * *", "5,20,35,50 * * * *"),
        ("5-59/15 * * * *", "5,20,35,50 * * * *"),
        ("*/60 * * * *", "0 * * * *"),
        ("00 003 * * *", "0 3 * * *"),
        ("  0\t 3  * * *\t", "0 3 * * *"),
        ("0 3 ? * ?", "0 3 * * *"),
        ("0 0 3 * * *", "0 3 * * *"),
        ("0 0 * * 5#2", "0 0 * * fri#2"),
        ("0 0 * * 7#1", "0 0 * * 0#1"),
        ("0 0 l * *", "0 0 L * *"),
        ("0 0 1-31 * MON", "0 0 * * *"),
        ("0 0 1 JAN/3 *", "0 0 1 1,4,7,10 *"),
        ("0 0 * * 1/2", "0 0 * * 1,3,5"),
        ("0 0 * * 0-7", "0 0 * * *"),
        ("CRON_TZ=UTC @daily", "0 0 * * *"),
        ("0 9 * * 1-5", "0 9 * * MON-FRI"),
        ("0 22-2 * * *", "0 0,1,2,22,23 * * *"),
        ("0 22-4/3 * * *", "0 1,4,22 * * *"),
        ("50-10/10 * * * *", "0,10,50 * * * *"),
        ("58-2 0 0 * * *", "58,59,0,1,2 0 0 * * *"),
        ("0 0 * * 5-1", "0 0 * * FRI-MON"),
        ("0 0 * * 6-0", "0 0 * * SAT,SUN"),
        ("0 0 * * 7-2", "0 0 * * SUN-TUE"),
        ("0 0 * * 5-1/2", "0 0 * * FRI,SUN"),
        ("0 0 1 11-2 *", "0 0 1 NOV-FEB *"),
        ("0 0 28-3 * *", "0 0 1-3,28-31 * *"),
        ("0 0 lw * *", "0 0 LW * *"),
        ("0 0 * * fril", "0 0 * * 5L"),
        ("0 0 * * 7L", "0 0 * * SUNL"),
        ("0 0 L,L-1 * *", "0 0 L-1,L * *"),
        ("@every day at 9:00", "0 9 * * *"),
        ("@EVERY 1 DAY AT 09:00:30", "30 0 9 * * *"),
        ("@every week on MON-FRI at 09:00", "0 9 * * MON-FRI"),
        ("@every  1  weeks on sat, sun at 00:05", "5 0 * * SAT,SUN"),
        ("@every week at 09:00", "0 9 * * WED"),
    ],
)
def test_another_way_to_say(text: str, same: str) -> None:
    assert due(text, 40) == due(same, 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * MON", ["07-06 02:30:00", "07-13 02:30:00", "07-20 02:30:00"]),
        ("*/10 * * * * *", ["07-01 00:00:10", "07-01 00:00:20", "07-01 00:00:30"]),
        ("15 30 2 * * *", ["07-01 02:30:15", "07-02 02:30:15", "07-03 02:30:15"]),
        ("0 0 13 * FRI", ["07-03 00:00:00", "07-10 00:00:00", "07-13 00:00:00"]),
        ("0 0 */2 * FRI", ["07-03 00:00:00", "07-17 00:00:00", "07-31 00:00:00"]),
        ("0 0 13 * */2", ["08-13 00:00:00", "09-13 00:00:00", "10-13 00:00:00"]),
        ("0 0 L * *", ["07-31 00:00:00", "08-31 00:00:00", "09-30 00:00:00"]),
        ("0 0 L * 5#2", ["07-10 00:00:00", "07-31 00:00:00", "08-14 00:00:00"]),
        ("0 0 15,L * ?", ["07-15 00:00:00", "07-31 00:00:00", "08-15 00:00:00"]),
        ("0 0 * * 5#1,1#5", ["07-03 00:00:00", "08-07 00:00:00", "08-31 00:00:00"]),
        ("0 0 30 2 MON", ["02-01 00:00:00", "02-08 00:00:00", "02-15 00:00:00"]),
        ("0 0 29 2 *", ["02-29 00:00:00", "02-29 00:00:00", "02-29 00:00:00"]),
        ("@every 1h30m", ["07-01 01:30:00", "07-01 03:00:00", "07-01 04:30:00"]),
        ("@EVERY PT90S", ["07-01 00:01:30", "07-01 00:03:00", "07-01 00:04:30"]),
        ("@every 1.5h", ["07-01 01:30:00", "07-01 03:00:00", "07-01 04:30:00"]),
        ("@every P1W", ["07-08 00:00:00", "07-15 00:00:00", "07-22 00:00:00"]),
        ("@every P1DT1H", ["07-02 01:00:00", "07-03 02:00:00", "07-04 03:00:00"]),
        ("0 0 L-3 * *", ["07-28 00:00:00", "08-28 00:00:00", "09-27 00:00:00"]),
        ("0 0 L-30 * *", ["08-01 00:00:00", "10-01 00:00:00", "12-01 00:00:00"]),
        ("0 0 LW * *", ["07-31 00:00:00", "08-31 00:00:00", "09-30 00:00:00"]),
        ("0 0 LW 1,2,5 *", ["01-29 00:00:00", "02-26 00:00:00", "05-31 00:00:00"]),
        ("0 0 15W * *", ["07-15 00:00:00", "08-14 00:00:00", "09-15 00:00:00"]),
        ("0 0 1W 8-11 *", ["08-03 00:00:00", "09-01 00:00:00", "10-01 00:00:00"]),
        ("0 0 31W * *", ["07-31 00:00:00", "08-31 00:00:00", "10-30 00:00:00"]),
        ("0 0 31W JAN,OCT *", ["10-30 00:00:00", "01-29 00:00:00", "10-29 00:00:00"]),
        ("0 0 L-1W * *", ["07-30 00:00:00", "08-31 00:00:00", "09-29 00:00:00"]),
        ("0 0 * * 5L", ["07-31 00:00:00", "08-28 00:00:00", "09-25 00:00:00"]),
        ("0 0 * FEB,NOV SUNL", ["11-29 00:00:00", "02-28 00:00:00", "11-28 00:00:00"]),
        ("0 0 15W * FRIL", ["07-15 00:00:00", "07-31 00:00:00", "08-14 00:00:00"]),
        ("0 0 L-3 * */2", ["07-28 00:00:00", "09-27 00:00:00", "01-28 00:00:00"]),
        ("0 0 29W FEB *", ["02-29 00:00:00", "02-27 00:00:00", "02-29 00:00:00"]),
        ("@every 3 days at 02:30", ["07-01 02:30:00", "07-04 02:30:00", "07-07 02:30:00"]),
        ("@every 2 weeks at 09:00", ["07-01 09:00:00", "07-15 09:00:00", "07-29 09:00:00"]),
        ("@every 2 weeks at 00:00", ["07-15 00:00:00", "07-29 00:00:00", "08-12 00:00:00"]),
        ("@every 2 weeks on MON at 09:00", ["07-06 09:00:00", "07-20 09:00:00", "08-03 09:00:00"]),
        ("@every 2 weeks on TUE,WED at 09:00", ["07-01 09:00:00", "07-07 09:00:00", "07-15 09:00:00"]),
        (timedelta(minutes=5), ["07-01 00:05:00"]),
        (datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")), ["07-01 10:00:00"]),
        ("@once", []),  # due at its anchor, and after is exclusive
    ],
)
def test_meaning(text: Any, expected: list[str]) -> None:
    assert due(text) == expected


REFUSED: list[tuple[Any, Any, str | None, str]] = [
    ("", None, None, "empty"),
    (" \t ", None, None, "empty"),
    ("*", None, None, "not 1"),
    ("* * * *", None, None, "not 4"),
    ("0 0 1 1 * * 2020", None, None, "not 7"),
    ("60 * * * *", None, "minute", "out of range"),
    ("* 24 * * *", None, "hour", "out of range"),
    ("60 * * * * *", None, "second", "out of range"),
    ("0 0 0 * *", None, "day-of-month", "out of range"),
    ("0 0 32 * *", None, "day-of-month", "out of range"),
    ("0 0 1 13 *", None, "month", "out of range"),
    ("0 0 1 0 *", None, "month", "out of range"),
    ("0 0 * * 8", None, "day-of-week", "out of range"),
    ("*/0 * * * *", None, "minute", "a step must be 1 to 60"),
    ("*/-5 * * * *", None, "minute", "signs"),
    ("*/61 * * * *", None, "minute", "a step must be 1 to 60"),
    ("0 0 * * */8", None, "day-of-week", "a step must be 1 to 7"),
    ("1,,2 * * * *", None, "minute", "missing"),
    (",1 * * * *", None, "minute", "missing"),
    ("1-2-3 * * * *", None, "minute", "one value, one range"),
    ("1/2/3 * * * *", None, "minute", "one value, one range"),
    ("1.5 * * * *", None, "minute", "whole numbers"),
    ("0x10 * * * *", None, "minute", "not a minute"),
    ("+1 * * * *", None, "minute", "signs"),
    ("-1 * * * *", None, "minute", "signs"),
    ("\u0665 * * * *", None, None, "ASCII"),
    ("0\u00a00 * * *", None, None, "ASCII"),
    ("0 0 * * *\x00", None, None, "ASCII"),
    ("0 0 * * *\n", None, None, "ASCII"),
    ("0 0\n* * *", None, None, "ASCII"),
    (" " * 300, None, None, "at most 256"),
    ("0" * 250 + " * * * *", None, None, "at most 256"),
    ("0 0 * FOO *", None, "month", "JAN-DEC"),
    ("0 0 * * FOO", None, "day-of-week", "SUN-SAT"),
    ("0 0 * JANUARY *", None, "month", "not a month"),
    ("0 0 * * MONDAY", None, "day-of-week", "not a day-of-week"),
    ("MON * * * *", None, "minute", "not a minute"),
    ("0 0 * MON *", None, "month", "not a month"),
    ("@fortnightly", None, None, "not one of"),
    ("@reboot", None, None, "not one of"),
    ("@", None, None, "not one of"),
    ("@daily 5", None, None, "not one of"),
    ("@once now", None, None, "not one of"),
    ("@at 2030-01-01T00:00:00Z", None, None, "not one of"),
    ("@after PT5M", None, None, "not one of"),
    ("H * * * *", None, "minute", "hashed and random"),
    ("H(0-29)/10 * * * *", None, "minute", "hashed and random"),
    ("R * * * *", None, "minute", "hashed and random"),
    ("R R * * *", None, "minute", "hashed and random"),
    ("@every 0s", None, None, "shorter than 100 milliseconds"),
    ("@every 99ms", None, None, "shorter than 100 milliseconds"),
    ("@every -5m", None, None, "not have a sign"),
    ("@every", None, None, "not a length"),
    ("@every 1d", None, None, "not a length"),
    ("@every 5", None, None, "not a length"),
    ("@every 1h 30m", None, None, "not a length"),
    ("@every 1us", None, None, "not a length"),
    ("@every P1M", None, None, "not an ISO 8601"),
    ("@every P1Y", None, None, "not an ISO 8601"),
    ("@every P", None, None, "not an ISO 8601"),
    ("@every PT", None, None, "not an ISO 8601"),
    ("@every P1.5DT1H", None, None, "fraction"),
    ("@every 0.1234567s", None, None, "finer"),
    ("@every 99999999h", None, None, "year 9999"),
    ("@every PT" + "9" * 200 + "S", None, None, "year 9999"),
    ("@every1h", None, None, "not one of"),
    ("0 0 30 2 *", None, "day-of-month", "never comes"),
    ("0 0 31 2,4,6 *", None, "day-of-month", "never comes"),
    ("0 0 30 2 */2", None, "day-of-month", "never comes"),
    ("0 0 */31 * MON#2", None, "day-of-month", "never comes"),
    ("*/5 2 8-14 3 */7", "America/New_York", None, "always skips"),
    ("0 0 * * *", "Mars/Olympus", "timezone", "not an IANA"),
    ("0 0 * * *", "../../etc/passwd", "timezone", "not an IANA"),
    ("0 0 * * *", "/etc/localtime", "timezone", "not an IANA"),
    ("0 0 * * *", "Europe", "timezone", "not an IANA"),
    ("0 0 * * *", "", "timezone", "not an IANA"),
    ("0 0 * * *", "europe/berlin", "timezone", "spelt 'Europe/Berlin'"),
    ("0 0 * * *", "posix/Europe/Berlin", "timezone", "not an IANA"),
    ("0 0 * * *", "localtime", "timezone", "not an IANA"),
    ("0 0 * * *", "Europe/Berlin\x00", "timezone", "not an IANA"),
    ("0 0 * * *", "+02:00", "timezone", "not an IANA"),
    ("CRON_TZ=Nowhere 0 0 * * *", None, "timezone", "not an IANA"),
    ("CRON_TZ= 0 0 * * *", None, "timezone", "not an IANA"),
    ("CRON_TZ=Europe/Berlin 0 0 * * *", "UTC", "timezone", "differ"),
    ("CRON_TZ=Europe/Berlin", None, None, "empty"),
    ("TZ=Europe/Berlin 0 0 * * *", None, "timezone", "written CRON_TZ="),
    ("0 0 1-L * *", None, "day-of-month", "L cannot end"),
    ("0 0 * * MON-FRI#2", None, "day-of-week", "one weekday"),
    ("0 0 * * 1,5#2", None, "day-of-week", "mixes"),
    ("0 0 * * MON-5", None, "day-of-week", "mixes"),
    ("0 0 * * 1-FRI", None, "day-of-week", "mixes"),
    ("*,5 * * * *", None, "minute", "list"),
    ("*/15,7 * * * *", None, "minute", "list"),
    ("0 0 * * 7/2", None, "day-of-week", "two readings"),
    ("0 0 28-3/2 * *", None, "day-of-month", "end of a month"),
    ("0 0 W * *", None, "day-of-month", "W must follow a day"),
    ("0 0 W15 * *", None, "day-of-month", "W must follow a day"),
    ("0 0 0W * *", None, "day-of-month", "out of range"),
    ("0 0 32W * *", None, "day-of-month", "out of range"),
    ("0 0 1-15W * *", None, "day-of-month", "W must follow one day"),
    ("0 0 15W/2 * *", None, "day-of-month", "W must follow one day"),
    ("0 0 L-0 * *", None, "day-of-month", "1 to 30"),
    ("0 0 L-31 * *", None, "day-of-month", "1 to 30"),
    ("0 0 L- * *", None, "day-of-month", "a number of days"),
    ("0 0 L-x * *", None, "day-of-month", "a number of days"),
    ("0 0 L-3-5 * *", None, "day-of-month", "a number of days"),
    ("0 0 L3 * *", None, "day-of-month", "L must follow the weekday"),
    ("0 0 5L * *", None, "day-of-month", "belongs to day-of-week"),
    ("0 0 FRIL * *", None, "day-of-month", "belongs to day-of-week"),
    ("0 0 * * 15W", None, "day-of-week", "W belongs to day-of-month"),
    ("0 0 * * LW", None, "day-of-week", "W belongs to day-of-month"),
    ("0 0 * * L-3", None, "day-of-week", "L must follow one weekday"),
    ("0 0 * * L5", None, "day-of-week", "L must follow the weekday"),
    ("0 0 * * 8L", None, "day-of-week", "out of range"),
    ("0 0 * * XYZL", None, "day-of-week", "not a day-of-week"),
    ("0 0 * * MON-FRIL", None, "day-of-week", "L must follow one weekday"),
    ("0 0 * * 1,5L", None, "day-of-week", "mixes"),
    ("15W * * * *", None, "minute", "not a minute"),
    ("0 0 31W FEB *", None, "day-of-month", "never comes"),
    ("0 0 30W FEB *", None, "day-of-month", "never comes"),
    ("0 0 31W 2,4,6,9,11 *", None, "day-of-month", "never comes"),
    ("0 0 L-30 APR *", None, "day-of-month", "never comes"),
    ("0 0 LW * */6", None, "day-of-month", "never comes"),
    ("0 0 */31 2 5L", None, "day-of-month", "never comes"),
    ("@every 2 weeks", None, "at", "P14D"),
    ("@every day", None, "at", "P1D"),
    ("@every 2 weeks on MON", None, "at", "a time of day is missing"),
    ("@every 2 weeks at 24:00", None, "at", "00:00 to 23:59"),
    ("@every 2 weeks at 09:60", None, "at", "00:00 to 23:59"),
    ("@every 2 weeks at 9", None, "at", "00:00 to 23:59"),
    ("@every 2 weeks at 9am", None, "at", "00:00 to 23:59"),
    ("@every 0 days at 09:00", None, "every", "1 to 999"),
    ("@every 1000 days at 09:00", None, "every", "1 to 999"),
    ("@every 1.5 days at 09:00", None, "every", "1 to 999"),
    ("@every -2 days at 09:00", None, "every", "1 to 999"),
    ("@every other week at 09:00", None, "every", "1 to 999"),
    ("@every 2 days on MON at 09:00", None, "on", "on must follow week"),
    ("@every 2 weeks on MONDAY at 09:00", None, "on", "not a day-of-week"),
    ("@every 2 weeks on * at 09:00", None, "on", "must be weekdays"),
    ("@every 2 weeks on FRI#2 at 09:00", None, "on", "must be weekdays"),
    ("@every 2 weeks on FRIL at 09:00", None, "on", "must be weekdays"),
    ("@every 2 weeks on at 09:00", None, None, "neither a length"),
    ("@every 2 weeks at 09:00 on MON", None, None, "before at"),
    ("@every 2 months at 09:00", None, None, "cron fields"),
    ("@every 2 hours", None, None, "1h30m"),
    ("@every 2 hours at 09:00", None, None, "1h30m"),
    ("@every 5min", None, None, "1h30m"),
    ("@every at 09:00", None, None, "neither a length"),
    ("@every 1h at 09:00", None, None, "neither a length"),
    ("@every weekday at 09:00", None, None, "after on"),
    ("@every MON at 09:00", None, None, "after on"),
    ("every 2 weeks at 09:00", None, None, "begin with @"),
    ("every monday at 9", None, None, "begin with @"),
    ("0 0 * * L", None, "day-of-week", "L is the last day"),
    ("L * * * *", None, "minute", "L is the last day"),
    ("0 0 5#2 * *", None, "day-of-month", "belongs to day-of-week"),
    ("0 0 * * 5#0", None, "day-of-week", "1 to 5"),
    ("0 0 * * 5#6", None, "day-of-week", "1 to 5"),
    ("? * * * *", None, "minute", "? must stand alone"),
    ("0 0 ?/2 * *", None, "day-of-month", "? must stand alone"),
    ("0 0 ?,5 * *", None, "day-of-month", "? must stand alone"),
    ("*-5 * * * *", None, "minute", "not a minute"),
    ("** * * * *", None, "minute", "not a minute"),
    (datetime(2030, 1, 1), None, None, "without a zone"),
    (timedelta(seconds=-1), None, None, "not be negative"),
    (timedelta.max, None, None, "year 9999"),
    (None, None, None, "not NoneType"),
    (5, None, None, "not int"),
    (b"@once", None, None, "not bytes"),
    ("@once", 5, "timezone", "not the name"),
    (timedelta(1), "Nowhere", "timezone", "not an IANA"),
]


@pytest.mark.parametrize(("text", "zone", "field", "reason"), REFUSED)
def test_refused(text: Any, zone: Any, field: str | None, reason: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        parse(text, zone)
    refused = caught.value
    assert isinstance(refused, AetherError)
    assert isinstance(refused, ValueError)
    assert refused.text is text
    assert refused.field == field
    assert reason in refused.reason
    assert refused.example in str(refused)
    assert works(refused.example, refused.field)


def works(example: str, field: str | None) -> bool:
    if example.startswith(("timedelta", "datetime")):
        parse(eval(example, {"timedelta": timedelta, "datetime": datetime, "UTC": UTC}))
    elif field == "timezone" and " " not in example:
        parse("@daily", example)
    else:
        parse(example)
    return True


@pytest.mark.parametrize(
    ("text", "zone", "stored", "name"),
    [
        (" 30 2  * * mon ", None, "30 2  * * mon", None),
        ("CRON_TZ=Europe/Berlin  @Daily", None, "@Daily", "Europe/Berlin"),
        ("CRON_TZ=UTC 0 0 * * *", "UTC", "0 0 * * *", "UTC"),
        ("@every 1h30m", "Asia/Tokyo", "@every 1h30m", "Asia/Tokyo"),
        (timedelta(days=1, hours=2, microseconds=500), None, "@after P1DT2H0.0005S", None),
        (timedelta(0), None, "@after PT0S", None),
        (
            datetime(2030, 1, 31, 2, 30, tzinfo=timezone(timedelta(hours=2))),
            "Asia/Tokyo",
            "@at 2030-01-31T00:30:00Z",
            "Asia/Tokyo",
        ),
        (datetime(2030, 1, 31, 2, 30, 0, 5, UTC), None, "@at 2030-01-31T02:30:00.000005Z", None),
    ],
)
def test_what_is_stored_is_loaded(text: Any, zone: str | None, stored: str, name: str | None) -> None:
    schedule = parse(text, zone)
    assert (schedule.text, schedule.timezone) == (stored, name)
    loaded = load(schedule.text, schedule.timezone)
    assert loaded == schedule
    assert type(loaded) is type(schedule)
    assert loaded.next(START, START) == schedule.next(START, START)


@pytest.mark.parametrize(
    "text",
    ["@at", "@at soon", "@at 2030-01-01", "@after", "@after 5", "@after P1Y", "@at 2030-13-01T00:00Z", ""],
)
def test_what_was_never_stored_is_not_loaded(text: str) -> None:
    with pytest.raises(InvalidSchedule):
        load(text, None)


@given(st.timedeltas(timedelta(0)))
def test_lengths_are_read_as_written(length: timedelta) -> None:
    assert _lengths.read(_lengths.write(length)) == length


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1m30s", 90),
        ("30s1m", 90),
        ("100ms", 0.1),
        ("0.5s", 0.5),
        ("1.5h", 5400),
        ("PT1.5M", 90),
        ("P0DT90S", 90),
    ],
)
def test_lengths(text: str, seconds: float) -> None:
    assert _lengths.read(text) == timedelta(seconds=seconds)


def test_a_system_without_tzdata_still_has_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_zone, "known", dict)
    _zone.load.cache_clear()
    assert str(_zone.load("Europe/Berlin")) == "Europe/Berlin"
    _zone.load.cache_clear()
