"""Adjusts waiting jobs when the wall clock is set back or the rules of a zone change (docs/protocol.md, R4 to R6)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import anyio
import attrs

from aether_bg._kernel.journal import Journal
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import to_tick
from aether_bg._rules import adjustments
from aether_bg._rules.recurrence import REPEATED
from aether_bg.errors import InvalidSchedule
from aether_bg.model import Query

GONE_BACK: Final = 0.05
"""Seconds by which the wall clock must go back to count as set back; less is drift that is being corrected."""
REPORTED: Final = 1.0
"""Seconds from which this is reported."""
PASSES: Final = 3
"""How often rows are checked after each step: an outcome may be decided before the step and written after a check."""
_PAGE: Final = 200


@attrs.define(kw_only=True, eq=False)
class Clocks:
    _shared: Shared
    _journal: Journal
    _lead: float | None = attrs.field(default=None, init=False)
    """The wall clock minus the monotonic one, at the last check."""
    _back: float = attrs.field(default=0.0, init=False)
    """Seconds of a step that has not been reported yet."""
    _passes: int = attrs.field(default=PASSES, init=False)
    """Checks that remain: the clock may have been set back before this start as well."""
    _starting: bool = attrs.field(default=True, init=False)

    async def run(self) -> None:
        while True:
            await self.look()
            await anyio.sleep(to_tick(self._shared.timings.clocks))

    async def look(self) -> None:
        now = self._shared.clock.now()
        lead = now.timestamp() - self._shared.clock.monotonic()
        before, self._lead = self._lead, lead
        undone = self._shared.schedules.undone
        if undone is not None and now > undone:
            self._shared.schedules.undone = None
        if before is not None and lead <= before - GONE_BACK:
            self._back, self._passes = before - lead, PASSES
            self._came_to(now, now + timedelta(seconds=self._back))
        if self._starting:
            await self._look_back(now)
            await self._adjust(Query(zoned=True, limit=_PAGE))
        if self._passes:
            moved, missed = await self._adjust(Query(changed_after=now, limit=_PAGE))
            self._report(moved)
            self._passes = max(self._passes - 1, missed)
        self._starting = False

    def _came_to(self, now: datetime, before: datetime) -> None:
        """The wall clock showed `before`, and was set back to `now`."""
        schedules = self._shared.schedules
        if before - now >= REPEATED:
            schedules.undone = max(before, schedules.undone or before)

    async def _look_back(self, now: datetime) -> None:
        """How far the clock was set back while nothing ran, as far as the rows show."""
        query = Query(changed_after=now, limit=_PAGE)
        while rows := await self._shared.calls.find(query):
            self._came_to(now, max(row.modified_at for row in rows))
            query = attrs.evolve(query, after=rows[-1].id)

    def _report(self, moved: int) -> None:
        back, self._back = self._back, 0.0
        if back >= REPORTED:
            text = f"the wall clock was set back by {timedelta(seconds=round(back))}; recurring jobs and retries go on "
            self._shared.problems.report("clock", text + "from now, one-shots keep their instants")
        elif moved and self._starting:
            text = f"{moved} waiting jobs were planned by a clock that has been set back since; they go on from now"
            self._shared.problems.report("clock", text)

    async def _adjust(self, query: Query) -> tuple[int, bool]:
        """Page by page: how many rows were changed, and whether one of them was lost to another writer."""
        moved, missed = 0, False
        while rows := await self._shared.calls.find(query):
            for row in rows:
                if row.handler_name not in self._shared.handlers:
                    continue
                try:
                    plan = self._shared.schedules.plan(row)
                    change = await self._shared.schedules.aside(adjustments.adjust, row, plan, self._shared.clock.now())
                except InvalidSchedule:
                    continue  # the claim reports it
                if change is not None:
                    saved = await self._journal.try_update(change)
                    moved, missed = moved + saved, missed or not saved
            if len(rows) < query.limit:
                break
            query = attrs.evolve(query, after=rows[-1].id)
        return moved, missed
