"""Schedules that recur: words, intervals and cron fields, and how to write here what others write differently."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from . import _days, _fields, _lengths, _zone
from ._cron import Cron
from ._days import EveryDays
from ._model import EXAMPLE, LATEST, Refused, Schedule
from ._simple import Every

SHORTEST: Final = timedelta(milliseconds=100)
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
OTHER_ZONE = re.compile(r"(?:TZ|CRON_TZ|TIMEZONE|ZONE)[ \t]*=[ \t]*([^ \t]*)[ \t]*(.*)", re.IGNORECASE)
DURATION = re.compile(r"[+-]?P(?=[\dT])[\dTYMWDHS.,]+", re.IGNORECASE)
INSTANT = re.compile(r"\d{4}-?\d\d-?\d\d(?:[T ]|$)")
LENGTH = re.compile(r"(?:every[ \t]+)?(\d+)[ \t]*(s|secs?|seconds?|m|mins?|minutes?|h|hours?|hrs?)", re.IGNORECASE)
EVERY_WORDS = re.compile(r"every[ \t]", re.IGNORECASE)
EVERY = re.compile(r"@every(?:[ \t]+(.*))?", re.IGNORECASE)


def recurring(text: str, timezone: str | None, zone: tzinfo) -> Schedule:
    """Reads a text that is neither `@once` nor empty; `timezone`: the name of `zone`."""
    word = text.lower()
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
