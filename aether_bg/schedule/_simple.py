"""Schedules without a calendar: once, at an instant, after a length of time, at an interval."""

from __future__ import annotations

from abc import abstractmethod
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Self

import attrs

from . import _zone
from ._model import LATEST, Upcoming, count, instant


def now() -> datetime:
    return datetime.now(UTC)


@attrs.frozen(kw_only=True)
class Simple:
    """The common part."""

    text: str
    timezone: str | None = None
    parsed: datetime = attrs.field(factory=now, repr=False, eq=False)
    """The anchor if none is given."""

    def again(self) -> Self:
        """The same, parsed now."""
        return attrs.evolve(self, parsed=now())

    @abstractmethod
    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None: ...

    def upcoming(self, n: int, after: datetime | None = None, anchor: datetime | None = None) -> list[Upcoming]:
        zone = _zone.load(self.timezone)
        last = now() if after is None else after
        coming: list[Upcoming] = []
        for _ in count(n, self.text):
            if (due := self.next(last, anchor)) is None:
                break
            coming.append(Upcoming(at=due.astimezone(zone)))
            last = due
        return coming


@attrs.frozen(kw_only=True)
class Single(Simple):
    """A single occurrence."""

    recurring: ClassVar[bool] = False

    @abstractmethod
    def due(self, anchor: datetime) -> datetime | None:
        """The occurrence of a job created at `anchor`."""

    def first(self, anchor: datetime) -> datetime | None:
        return self.due(instant(anchor, "anchor", self.text))

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        due = self.first(self.parsed if anchor is None else anchor)
        return due if due is not None and due > instant(after, "after", self.text) else None


@attrs.frozen(kw_only=True)
class Once(Single):
    """`@once`."""

    def again(self) -> Self:
        # Parsed far more often than the others; attrs.evolve would take four times as long.
        return type(self)(text=self.text, timezone=self.timezone, parsed=datetime.now(UTC))

    def due(self, anchor: datetime) -> datetime | None:
        return anchor

    def describe(self) -> str:
        return "once, now"


@attrs.frozen(kw_only=True)
class At(Single):
    """A datetime, stored as `@at 2026-07-01T10:00:00Z`."""

    instant: datetime

    def due(self, anchor: datetime) -> datetime | None:
        return self.instant

    def describe(self) -> str:
        at = self.instant.astimezone(_zone.load(self.timezone)).replace(tzinfo=None)
        return f"once, at {at}, {self.timezone or 'UTC'}"


@attrs.frozen(kw_only=True)
class After(Single):
    """A timedelta, stored as `@after PT1H30M`."""

    length: timedelta

    def due(self, anchor: datetime) -> datetime | None:
        return anchor + self.length if self.length <= LATEST - anchor else None

    def describe(self) -> str:
        return f"once, after {_in_words(self.length)}"


@attrs.frozen(kw_only=True)
class Every(Simple):
    """`@every 1h30m`: multiples of a length, counted from the anchor."""

    recurring: ClassVar[bool] = True

    length: timedelta

    def first(self, anchor: datetime) -> datetime | None:
        return self.next(anchor, anchor)

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        after = instant(after, "after", self.text)
        anchor = instant(self.parsed if anchor is None else anchor, "anchor", self.text)
        lengths = max((after - anchor) // self.length + 1, 1)
        # Compared before they are multiplied: the product may be more than a timedelta holds.
        return anchor + lengths * self.length if lengths <= (LATEST - anchor) // self.length else None

    def count(self, after: datetime, upto: datetime, anchor: datetime | None = None) -> int:
        """How many occurrences lie later than `after`, up to and including `upto`."""
        anchor = instant(self.parsed if anchor is None else anchor, "anchor", self.text)
        since, until = (
            max((instant(value, name, self.text) - anchor) // self.length, 0)
            for value, name in ((after, "after"), (upto, "upto"))
        )
        return max(until - since, 0)

    def describe(self) -> str:
        return f"every {_in_words(self.length)}"


def _in_words(length: timedelta) -> str:
    from . import _lengths  # which only people ask for

    return _lengths.words(length)
