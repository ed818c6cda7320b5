"""The two entry points: `parse` for what a user writes, `load` for what was stored."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from aether_bg.errors import InvalidSchedule, shown

from . import _zone
from ._model import EARLIEST, EXAMPLE, LATEST, NOW, Refused, Schedule, plain_length, utc
from ._simple import After, At, Once

MOST_CHARACTERS = 256
ZONED = re.compile(r"CRON_TZ=([^ \t]*)[ \t]*(.*)")


def parse(text: str | datetime | timedelta, timezone: str | None = None) -> Schedule:
    """Read a schedule, in the zone of that IANA name. Raises `InvalidSchedule`.

    Parsing the same text again costs about a microsecond. An aware datetime is a single occurrence then; a
    timedelta, one after it.
    """
    if type(text) is not str or (timezone is not None and type(timezone) is not str):
        return parse_other(text, timezone)
    schedule = read(text, timezone)
    again: Callable[[], Schedule] | None = getattr(schedule, "again", None)
    return again() if again is not None else schedule


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
            from . import _lengths

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
    from . import _lengths

    example = "timedelta(minutes=5)"
    length = plain_length(length)
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
        gaps = getattr(schedule, "frequency", False) and schedule.timezone is not None
        if gaps and schedule.next(datetime.now(UTC)) is None:
            zone = schedule.timezone
            raise Refused(None, f"it never comes: the clock of {zone} always skips these times", EXAMPLE)
    except Refused as refused:
        raise invalid(text, refused) from None
    return schedule


def build(text: str, timezone: str | None) -> Schedule:
    """Words and fields, with or without a zone in front."""
    text, timezone = plain(text, timezone)
    if text.lower() == "@once":
        _zone.load(timezone)
        return Once(text=text, timezone=timezone)
    from ._recurring import recurring  # with the calendar, which a process with one-shots alone never needs

    return recurring(text, timezone, _zone.load(timezone))


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


def invalid(text: object, refused: Refused) -> InvalidSchedule:
    return InvalidSchedule(text, field=refused.field, reason=refused.reason, example=refused.example)
