"""The protocol of schedules, their previews, and the limits of the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, runtime_checkable

import attrs

from aether_bg.errors import InvalidSchedule, shown

EARLIEST = datetime(1, 1, 3, tzinfo=UTC)
LATEST = datetime(9999, 12, 29, tzinfo=UTC)
"""The calendar: between these, every instant has a wall time in every zone."""

MOST_UPCOMING = 10_000
NOW = "datetime.now(UTC)"
EXAMPLE = "30 2 * * MON"


class Refused(Exception):
    """A part breaks a rule. The whole text is not known here: `parse` turns this into `InvalidSchedule`."""

    def __init__(self, field: str | None, reason: str, example: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason
        self.example = example


@attrs.frozen(kw_only=True)
class Upcoming:
    """One coming occurrence, as a preview shows it."""

    at: datetime
    """Aware, in the schedule's zone."""
    note: Literal["moved", "doubled"] | None = None
    """`moved`: its time does not exist that day; `doubled`: the second run of a time that comes twice."""
    reason: str | None = None
    """The note in words."""


@runtime_checkable
class Schedule(Protocol):
    """When a job is due. Immutable; every method may be called from any thread.

    `after` and `anchor` are aware; what `next` and `first` return is aware, in UTC. A naive one raises
    `InvalidSchedule`.
    """

    @property
    def text(self) -> str:
        """The expression as stored: as given, stripped, without `CRON_TZ=`."""

    @property
    def timezone(self) -> str | None:
        """The IANA name given, None if none was: UTC."""

    @property
    def recurring(self) -> bool:
        """False if it has a single occurrence."""

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        """The first occurrence later than `after`, None if there is none.

        `anchor` is the instant the job was created or last updated (default: when the text was parsed).
        """

    def first(self, anchor: datetime) -> datetime | None:
        """When a job created at `anchor` is first due; for a single occurrence even if that has passed."""

    def upcoming(self, n: int, after: datetime | None = None, anchor: datetime | None = None) -> list[Upcoming]:
        """The next `n` occurrences after `after` (default: now); fewer if the schedule ends."""

    def describe(self) -> str:
        """The schedule in words: `at 02:30 every Monday, Europe/Berlin`."""


def utc(value: datetime) -> datetime:
    """`value` as a plain datetime in UTC, at most at the calendar's limits; refused if it names no instant.

    Other libraries have subclasses of their own, some of which are no instant at all (NaT).
    """
    if type(value) is datetime and value.tzinfo is UTC and EARLIEST <= value <= LATEST:
        return value
    try:
        offset = value.utcoffset()
        wall = datetime.fromisoformat(datetime.isoformat(value)).replace(tzinfo=UTC)
    except Exception as error:  # a tzinfo of the user's, or no datetime but by name
        raise Refused(None, f"must name an instant, but reading it raised {error!r}", NOW) from None
    if offset is None:
        raise Refused(None, "must have a time zone: a datetime without a zone names no instant", NOW)
    try:
        wall -= timedelta(days=offset.days, seconds=offset.seconds, microseconds=offset.microseconds)
    except OverflowError:
        return EARLIEST if wall.year == 1 else LATEST
    return min(max(wall, EARLIEST), LATEST)


def plain_length(length: timedelta) -> timedelta:
    """The same length as a plain `timedelta`; other libraries have subclasses of their own."""
    if type(length) is timedelta:
        return length
    return timedelta(microseconds=timedelta.__floordiv__(length, timedelta(microseconds=1)))


def later(now: datetime, length: timedelta) -> datetime:
    """`now` and a length after it, at most at the calendar's limits."""
    try:
        return utc(now + timedelta(microseconds=timedelta.__floordiv__(length, timedelta(microseconds=1))))
    except OverflowError:
        return LATEST if length > timedelta(0) else EARLIEST


def instant(value: object, name: str, text: str) -> datetime:
    """The argument `name` of a schedule's method in UTC."""
    try:
        if isinstance(value, datetime):
            return utc(value)
        raise Refused(None, f"must be an aware datetime, not {type(value).__name__}", NOW)
    except Refused as refused:
        reason = f"{shown(value)}: {refused.reason}"
        raise InvalidSchedule(text, field=name, reason=reason, example=refused.example) from None


def count(n: object, text: str) -> range:
    """The checked `n` of `upcoming`."""
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MOST_UPCOMING:
        reason = f"must be a number from 0 to {MOST_UPCOMING}, got {shown(n)}"
        raise InvalidSchedule(text, field="n", reason=reason, example="upcoming(5)")
    return range(n)
