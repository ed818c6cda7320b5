"""Schedules by the wall clock: matching wall times turned into instants, by the rule for daylight saving."""

from __future__ import annotations

from abc import abstractmethod
from datetime import UTC, datetime
from typing import ClassVar

import attrs

from . import _counting
from ._calendar import HORIZON, Walls
from ._model import LATEST, Upcoming, count, instant
from ._zone import SECOND, Clock


@attrs.frozen(kw_only=True)
class Occurrence:
    """An instant, and the wall time that named it. In a gap that is not what the clock shows."""

    instant: datetime
    named: datetime


@attrs.frozen(kw_only=True)
class ByWallClock:
    """The common part of cron and of days at a time of day."""

    recurring: ClassVar[bool] = True

    text: str
    timezone: str | None
    clock: Clock = attrs.field(repr=False, eq=False)

    @property
    @abstractmethod
    def frequency(self) -> bool:
        """Whether it follows real time, rather than naming times of day."""

    @abstractmethod
    def walls(self, anchor: datetime | None) -> Walls:
        """The wall times that it names, for a job with this anchor."""

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        occurrence = self.search(instant(after, "after", self.text), self.walls(anchor))
        return None if occurrence is None else occurrence.instant

    def first(self, anchor: datetime) -> datetime | None:
        return self.next(anchor, anchor)

    def upcoming(self, n: int, after: datetime | None = None, anchor: datetime | None = None) -> list[Upcoming]:
        last = datetime.now(UTC) if after is None else instant(after, "after", self.text)
        walls, coming = self.walls(anchor), list[Upcoming]()
        for _ in count(n, self.text):
            if (occurrence := self.search(last, walls)) is None:
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
        walls = self.walls(anchor)
        if self.frequency:
            return _counting.frequencies(walls, self.clock, after, upto)
        return _counting.fixed(walls, self.clock, self.reached(after), after, upto)

    def search(self, after: datetime, walls: Walls) -> Occurrence | None:
        """The first occurrence later than `after`."""
        if after >= LATEST:
            return None
        after = after.replace(microsecond=0)
        if self.clock.zone is UTC:
            named = walls.following(after.replace(tzinfo=None))
            return None if named is None else Occurrence(instant=named.replace(tzinfo=UTC), named=named)
        return self.search_frequency(after, walls) if self.frequency else self.search_fixed(after, walls)

    def search_fixed(self, after: datetime, walls: Walls) -> Occurrence | None:
        """The first time the wall clock has not reached by `after`, when it reaches it."""
        named = walls.following(self.reached(after))
        return None if named is None else Occurrence(instant=self.clock.reach(named), named=named)

    def reached(self, instant: datetime) -> datetime:
        """The latest wall time that the clock has shown by `instant`."""
        wall = self.clock.wall(instant)
        if wall.fold and (seam := self.clock.repeat(instant)) is not None:
            shown, _ = self.clock.around(seam)
            return shown - SECOND
        return wall

    def search_frequency(self, after: datetime, walls: Walls) -> Occurrence | None:
        """The first instant later than `after` at which the wall clock shows a matching time."""
        clock, wall = self.clock, self.clock.wall(after)
        if (seam := clock.repeat(after)) is not None:
            shown, again = clock.around(seam)
            passes = [(1, wall)] if wall.fold else [(0, wall), (1, again - SECOND)]
            for fold, start in passes:
                named = walls.following(start)
                if named is not None and named < shown:
                    return Occurrence(instant=clock.instant(named, fold), named=named)
            wall = shown - SECOND
        while (named := walls.following(wall)) is not None:
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
