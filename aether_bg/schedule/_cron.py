"""Cron expressions: six fields in a zone."""

from __future__ import annotations

from datetime import datetime

import attrs

from . import _dates, _words
from ._calendar import MonthDates, Walls
from ._fields import Field
from ._wall_clock import ByWallClock


@attrs.frozen
class FoundByCroniter(Walls):
    """Wall times that croniter can find."""

    expressions: tuple[str, ...] = ()

    def following(self, wall: datetime) -> datetime | None:
        return _dates.following(self.expressions, wall)


@attrs.frozen(kw_only=True)
class Cron(ByWallClock):
    """A cron expression in a zone."""

    fields: tuple[Field, ...] = attrs.field(repr=False, eq=False)
    dates: MonthDates = attrs.field(init=False, repr=False, eq=False)
    frequency: bool = attrs.field(init=False, repr=False, eq=False)
    named: Walls = attrs.field(init=False, repr=False, eq=False)

    @dates.default
    def _dates(self) -> MonthDates:
        return MonthDates(*self.fields[3:])

    @frequency.default
    def _frequency(self) -> bool:
        _, minute, hour, *_ = self.fields
        return minute.star or minute.stepped or hour.star or hour.stepped

    @named.default
    def _named(self) -> Walls:
        second, minute, hour = (field.values for field in self.fields[:3])
        if expressions := _dates.expressions(self.fields):
            return FoundByCroniter(second, minute, hour, self.dates, expressions)
        return Walls(second, minute, hour, self.dates)

    def walls(self, anchor: datetime | None) -> Walls:
        return self.named

    def describe(self) -> str:
        return f"{_words.describe(self.fields, frequency=self.frequency)}, {self.timezone or 'UTC'}"
