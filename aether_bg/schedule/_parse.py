"""The two entry points: `parse` for what a user writes, `load` for what was stored."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from aether_bg.errors import InvalidSchedule, shown

from . import _days, _fields, _lengths, _zone
from ._cron import Cron
from ._days import EveryDays
from ._model import EARLIEST, LATEST, NOW, Refused, Schedule, utc
from ._simple import After, At, Every, Once, Simple

MOST_CHARACTERS = 256
SHORTEST = timedelta(milliseconds=100)
EXAMPLE = "30 2 * * MON"

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
ZONED = re.compile(r"CRON_TZ=([^ \t]*)[ \t]*(.*)")
OTHER_ZONE = re.compile(r"(?:TZ|CRON_TZ|TIMEZONE|ZONE)[ \t]*=[ \t]*([^ \t]*)[ \t]*(.*)", re.IGNORECASE)
DURATION = re.compile(r"[+-]?P(?=[\dT])[\dTYMWDHS.,]+", re.IGNORECASE)
INSTANT = re.compile(r"\d{4}-?\d\d-?\d\d(?:[T ]|$)")
LENGTH = re.compile(r"(?:every[ \t]+)?(\d+)[ \t]*(s|secs?|seconds?|m|mins?|minutes?|h|hours?|hrs?)", re.IGNORECASE)
EVERY_WORDS = re.compile(r"every[ \t]", re.IGNORECASE)
EVERY = re.compile(r"@every(?:[ \t]+(.*))?", re.IGNORECASE)


def parse(text: str | datetime | timedelta, timezone: str | None = None) -> Schedule:
    """Read a schedule, in the zone of that IANA name. Raises `InvalidSchedule`.

    Parsing the same text again costs about a microsecond. An aware datetime is a single occurrence then; a
    timedelta, one after it.
    """
    if type(text) is not str or (timezone is not None and type(timezone) is not str):
        return parse_other(text, timezone)
    schedule = read(text, timezone)
    return schedule.again() if isinstance(schedule, Simple | EveryDays) else schedule


def parse_kept(text: object, timezone: object) -> Schedule:
    """The same for a schedule that counts from its own anchor: one value for the same text, not a new one each time."""
    if type(text) is str and (timezone is None or type(timezone) is str):
        return read(text, timezone)
    return parse_other(text, timezone)


def load(text: str, timezone: str | None) -> Schedule:
    """The schedule that was stored as `text` and `timezone`: also `@at …` and `@after …`.

    Text that was accepted once is accepted again, even if it has no coming occurrence: zones change.
    """
    try:
        word, _, value = text.partition(" ")
        if word not in ("@at", "@after"):
            return build(text, timezone)
        _zone.load(timezone)
        if word == "@after":
            return after(_lengths.read(value), timezone)
        try:
            return at(datetime.fromisoformat(value), timezone)
        except ValueError:
            raise Refused(None, "it is not a stored instant", "@at 2030-01-31T02:30:00Z") from None
    except Refused as refused:
        raise invalid(text, refused) from None


def parse_other(text: object, timezone: object) -> Schedule:
    """Read datetimes, timedeltas and subclasses of str; refuse everything else."""
    try:
        if isinstance(timezone, str):
            timezone = str.__str__(timezone)
        elif timezone is not None:
            raise Refused("timezone", f"{shown(timezone)} is not the name of a time zone", "Europe/Berlin")
        if isinstance(text, str):
            return parse(str.__str__(text), timezone)
        _zone.load(timezone)
        if isinstance(text, datetime):
            return at(text, timezone)
        if isinstance(text, timedelta):
            return after(text, timezone)
        kind = type(text).__name__
        raise Refused(None, f"must be a str, an aware datetime or a timedelta, not {kind}", EXAMPLE)
    except Refused as refused:
        raise invalid(text, refused) from None


def at(value: datetime, timezone: str | None) -> At:
    instant = utc(value)
    if not EARLIEST < instant < LATEST:
        raise Refused(None, "it lies at the edge of the calendar, where zones have no wall time", NOW)
    return At(text=f"@at {instant.replace(tzinfo=None).isoformat()}Z", timezone=timezone, instant=instant)


def after(length: timedelta, timezone: str | None) -> After:
    example = "timedelta(minutes=5)"
    length = _lengths.plain(length)
    if length < timedelta(0):
        raise Refused(None, "a length of time must not be negative", example)
    if length > LATEST - datetime.now(UTC):
        raise Refused(None, "it reaches past the year 9999", example)
    return After(text=f"@after {_lengths.write(length)}", timezone=timezone, length=length)


@lru_cache(maxsize=1024)
def read(text: str, timezone: str | None) -> Schedule:
    """Read a user's text. The result is kept: apps parse the same few texts again and again."""
    try:
        schedule = build(text, timezone)
        # Dates that never come are refused by now. What is left is a frequency whose times all lie in gaps.
        gaps = isinstance(schedule, Cron) and schedule.frequency and schedule.timezone is not None
        if gaps and schedule.next(datetime.now(UTC)) is None:
            zone = schedule.timezone
            raise Refused(None, f"it never comes: the clock of {zone} always skips these times", EXAMPLE)
    except Refused as refused:
        raise invalid(text, refused) from None
    return schedule


def build(text: str, timezone: str | None) -> Schedule:
    """Words and fields, with or without a zone in front."""
    text, timezone = plain(text, timezone)
    zone = _zone.load(timezone)
    word = text.lower()
    if word == "@once":
        return Once(text=text, timezone=timezone)
    if (match := EVERY.fullmatch(text)) is not None:
        value = match[1] or ""
        if (days := _days.read(value)) is not None:
            return EveryDays(text=text, timezone=timezone, clock=_zone.Clock(zone), **days)
        return Every(text=text, timezone=timezone, length=every(value))
    if word.startswith("@") and word not in ALIASES:
        words = ", ".join(["@once", "@every", *ALIASES])
        raise Refused(None, f"'{text.split()[0]}' is not one of {words}", "@daily")
    if (instead := written_otherwise(text)) is not None:
        raise instead
    fields = _fields.split(ALIASES.get(word, text))
    schedule = Cron(text=text, timezone=timezone, fields=fields, clock=_zone.Clock(zone))
    if not schedule.dates.ever():
        raise Refused("day-of-month", "it never comes: no month has a day that matches", "0 0 L 2 *")
    return schedule


def plain(text: str, timezone: str | None) -> tuple[str, str | None]:
    """The text without blanks around it or a zone in front, and that zone."""
    if len(text) > MOST_CHARACTERS:
        raise Refused(None, f"must have at most {MOST_CHARACTERS} characters, not {len(text)}", EXAMPLE)
    for character in text:
        if not (" " <= character <= "~" or character == "\t"):
            raise Refused(None, f"{character!a} is neither printable ASCII nor a blank", EXAMPLE)
    text = text.strip(" \t")
    if (match := ZONED.fullmatch(text)) is not None:
        named, text = match.groups()
        if timezone is not None and timezone != named:
            reason = f"CRON_TZ={named} and timezone={timezone!r} differ"
            raise Refused("timezone", reason, "CRON_TZ=Europe/Berlin 30 2 * * *")
        timezone = named
    if not text:
        raise Refused(None, "must not be empty", EXAMPLE)
    return text, timezone


def written_otherwise(text: str) -> Refused | None:
    """How to write here what other libraries or other arguments write differently."""
    word = text.lower()
    if match := OTHER_ZONE.fullmatch(text):
        named, rest = match.groups()
        return Refused("timezone", "a zone in front is written CRON_TZ=", f"CRON_TZ={named} {rest or EXAMPLE}")
    if DURATION.fullmatch(text):
        return Refused(None, "pass a length of time as a timedelta, or as @every to recur", "timedelta(minutes=5)")
    if INSTANT.match(text):
        with suppress(ValueError):
            when = datetime.fromisoformat(text)
            when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
            reason = "pass an instant as an aware datetime, not as text"
            return Refused(None, reason, f'datetime.fromisoformat("{when.isoformat()}")')
    if f"@{word}" in ALIASES or word == "once":
        return Refused(None, "a word for a schedule must begin with @", f"@{word}")
    if match := LENGTH.fullmatch(text):
        return Refused(None, "write an interval with @every", f"@every {match[1]}{match[2][0].lower()}")
    if EVERY_WORDS.match(text):
        return Refused(None, "it must begin with @", _days.EXAMPLE)
    return None


def every(text: str) -> timedelta:
    length = _lengths.read(text)
    if length < SHORTEST:
        raise Refused(None, f"'{text}' is shorter than {_lengths.words(SHORTEST)}", _lengths.EXAMPLE)
    if length > LATEST - datetime.now(UTC):
        raise Refused(None, f"'{text}' reaches past the year 9999", _lengths.EXAMPLE)
    return length


def invalid(text: object, refused: Refused) -> InvalidSchedule:
    return InvalidSchedule(text, field=refused.field, reason=refused.reason, example=refused.example)
