"""Cron schedules: matching wall times turned into instants, by the rule for daylight saving."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

import attrs

from . import _counting, _dates, _words
from ._fields import Field
from ._model import LATEST, Upcoming, count, instant
from ._zone import SECOND, Clock

HORIZON = 50
"""Years that a search covers. The longest wait is 40: for February 29 on a given weekday, across 2100."""


@attrs.frozen(kw_only=True)
class Occurrence:
    """An instant, and the wall time that named it. In a gap that is not what the clock shows."""

    instant: datetime
    named: datetime


@attrs.frozen(kw_only=True)
class Cron:
    """A cron expression in a zone."""

    recurring: ClassVar[bool] = True

    text: str
    timezone: str | None
    fields: tuple[Field, ...] = attrs.field(repr=False, eq=False)
    clock: Clock = attrs.field(repr=False, eq=False)
    expressions: tuple[str, ...] = attrs.field(init=False, repr=False, eq=False)
    frequency: bool = attrs.field(init=False, repr=False, eq=False)

    @expressions.default
    def _expressions(self) -> tuple[str, ...]:
        return _dates.expressions(self.fields)

    @frequency.default
    def _frequency(self) -> bool:
        _, minute, hour, *_ = self.fields
        return minute.star or minute.stepped or hour.star or hour.stepped

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        occurrence = self.search(instant(after, "after", self.text))
        return None if occurrence is None else occurrence.instant

    def first(self, anchor: datetime) -> datetime | None:
        return self.next(anchor, anchor)

    def upcoming(self, n: int, after: datetime | None = None, anchor: datetime | None = None) -> list[Upcoming]:
        last = datetime.now(UTC) if after is None else instant(after, "after", self.text)
        coming: list[Upcoming] = []
        for _ in count(n, self.text):
            if (occurrence := self.search(last)) is None:
                break
            last = occurrence.instant
            coming.append(self.preview(occurrence))
        return coming

    def count(self, after: datetime, upto: datetime, anchor: datetime | None = None) -> int:
        """How many occurrences lie later than `after`, up to and including `upto`; costs about a microsecond a day."""
        after = instant(after, "after", self.text).replace(microsecond=0)
        upto = instant(upto, "upto", self.text).replace(microsecond=0)
        if upto <= after:
            return 0
        if self.frequency:
            return _counting.frequencies(self.fields, self.clock, after, upto)
        return _counting.fixed(self.fields, self.clock, self.reached(after), after, upto)

    def describe(self) -> str:
        return f"{_words.describe(self.fields, frequency=self.frequency)}, {self.timezone or 'UTC'}"

    def search(self, after: datetime) -> Occurrence | None:
        """The first occurrence later than `after`."""
        if after >= LATEST:
            return None
        after = after.replace(microsecond=0)
        if self.clock.zone is UTC:
            named = _dates.following(self.expressions, after.replace(tzinfo=None))
            return None if named is None else Occurrence(instant=named.replace(tzinfo=UTC), named=named)
        return self.search_frequency(after) if self.frequency else self.search_fixed(after)

    def search_fixed(self, after: datetime) -> Occurrence | None:
        """The first time the wall clock has not reached by `after`, when it reaches it."""
        named = _dates.following(self.expressions, self.reached(after))
        return None if named is None else Occurrence(instant=self.clock.reach(named), named=named)

    def reached(self, instant: datetime) -> datetime:
        """The latest wall time that the clock has shown by `instant`."""
        wall = self.clock.wall(instant)
        if wall.fold and (seam := self.clock.repeat(instant)) is not None:
            shown, _ = self.clock.around(seam)
            return shown - SECOND
        return wall

    def search_frequency(self, after: datetime) -> Occurrence | None:
        """The first instant later than `after` at which the wall clock shows a matching time."""
        clock, wall = self.clock, self.clock.wall(after)
        if (seam := clock.repeat(after)) is not None:
            shown, again = clock.around(seam)
            passes = [(1, wall)] if wall.fold else [(0, wall), (1, again - SECOND)]
            for fold, start in passes:
                named = _dates.following(self.expressions, start)
                if named is not None and named < shown:
                    return Occurrence(instant=clock.instant(named, fold), named=named)
            wall = shown - SECOND
        while (named := _dates.following(self.expressions, wall)) is not None:
            reached = clock.reach(named)
            shown = clock.wall(reached)
            if shown == named:
                return Occurrence(instant=reached, named=named)
            if named.year - after.year > HORIZON:
                break
            wall = shown - SECOND  # in a gap: on with what the clock shows after it
        return None

    def preview(self, occurrence: Occurrence) -> Upcoming:
        at = occurrence.instant.astimezone(self.clock.zone)
        shown, named = at.replace(tzinfo=None, fold=0), occurrence.named
        if shown != named:
            before, after = self.clock.around(occurrence.instant)
            reason = f"{named} does not exist: the clock is set forward from {before} to {after}"
            return Upcoming(at=at, note="moved", reason=reason)
        if at.fold and (seam := self.clock.repeat(occurrence.instant)) is not None:
            before, after = self.clock.around(seam)
            reason = f"{named} comes a second time: the clock is set back from {before} to {after}"
            return Upcoming(at=at, note="doubled", reason=reason)
        return Upcoming(at=at)
