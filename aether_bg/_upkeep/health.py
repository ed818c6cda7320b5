"""The answer of `app.health()`: how this process is, from the rows themselves rather than from past warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from aether_bg._handlers.dependencies import Dependencies
from aether_bg._hooks.plugins import name_of
from aether_bg._kernel.claimer import Claimer
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.supervisor import Supervisor
from aether_bg._upkeep.heartbeat import Heartbeats
from aether_bg._upkeep.waiting import Waiting, sentences
from aether_bg.errors import shown
from aether_bg.explain import OVERDUE
from aether_bg.model import Query, Stats

MANY: Final = 100_000
"""To count more jobs than this takes a good part of a second: a count then stands for `_KEPT` seconds, as probes may
ask every second."""
_KEPT: Final = 10.0


@attrs.define(kw_only=True, eq=False)
class Health:
    _shared: Shared
    _dependencies: Dependencies
    _claimer: Claimer
    _heartbeats: Heartbeats
    _waiting: Waiting
    _supervisor: Supervisor
    _counted: tuple[float, Stats] | None = None
    """The last count of many jobs, and until when it stands."""

    async def report(self, lasting: Mapping[str, str | None]) -> dict[str, Any]:
        """As plain JSON. `lasting`: parts whose problem holds now, or does not, whatever was reported recently."""
        stats, problems = await self._of_the_store()
        trouble = self.scheduler_says("health")
        lasting = {**lasting, "notice": self.scheduler_says("notice")}
        if trouble is not None:
            problems["scheduler"] = trouble
        problems = {part: text for part, text in problems.items() if part not in lasting}
        problems |= {part: text for part, text in lasting.items() if text}
        pings = await self._dependencies.pings()
        wrong = stats is None or trouble is not None or self._supervisor.failing("scheduler") or "overdue" in problems
        return {
            "ok": not wrong and not any(pings.values()),
            "owner": str(self._shared.identity.owner),
            "scheduler": name_of(self._shared.calls.scheduler),
            "running": [str(attempt) for attempt in self._shared.slots.running.values()],
            "stats": stats,
            "problems": problems,
            "dependencies": pings,
        }

    async def _of_the_store(self) -> tuple[dict[str, Any] | None, dict[str, str]]:
        problems, alive = self._shared.problems.current, self._heartbeats.alive
        try:
            stats = await self._stats()
            for part in ("handlers", "schedules"):
                problems.pop(part, None)
            if alive is not None:
                problems |= sentences(await self._waiting.missing(alive))
            if (late := await self._overdue()) is not None:
                problems["overdue"] = late
        except Exception as error:
            return None, {**self._shared.problems.current, "store": f"{type(error).__name__}: {error}"}
        return stats.to_dict(), problems

    async def _stats(self) -> Stats:
        now = self._shared.clock.monotonic()
        if self._counted is not None and now < self._counted[0]:
            await self._shared.calls.find(Query(limit=1))  # whether the store answers now
            return self._counted[1]
        stats = await self._shared.calls.stats()
        self._counted = (now + _KEPT, stats) if stats.total > MANY else None
        return stats

    async def _overdue(self) -> str | None:
        """Due jobs that this process should have run, and the likely cause. Raises a `StoreError`."""
        if not (late := await self._waiting.overdue(self._heartbeats.alive, OVERDUE)):
            return None
        now = self._shared.clock.now()
        first = min(late, key=lambda job: job.due_at or now)
        since = (now - (first.due_at or now)).total_seconds()
        count = f"{len(late)} jobs are" if len(late) > 1 else "1 job is"
        return (
            f"{count} overdue by more than {OVERDUE:g} s; the first, {shown(first.job_name)}, has been due for "
            f"{since:.0f} s: {self.likely_cause(first.handler_name)}"
        )

    def likely_cause(self, handler: str) -> str:
        """Why due jobs of this handler may not run, as far as this process knows."""
        if self._shared.slots.free < 1:
            return f"all {self._shared.slots.concurrency} slots of this process are taken"
        if not self._claimer.has_room(handler):
            return "the free slots of this process are kept for handlers of which nothing runs"
        if self._claimer.error is not None:
            return f"the store refuses claims: {self._claimer.error}"
        return self.scheduler_says("likely_cause") or "the scheduler does not call; check that it runs"

    def scheduler_says(self, attribute: str) -> str | None:
        """What the scheduler plugin reports about itself, by an attribute or a plain method, if it has one."""
        said = getattr(self._shared.calls.scheduler, attribute, None)
        said = said() if callable(said) else said
        return str(said) if said else None
