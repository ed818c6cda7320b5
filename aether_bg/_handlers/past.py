"""Results that are kept, read again: for `app.result` and `ctx.parents` (docs/protocol.md, K1)."""

from __future__ import annotations

from typing import Any, Final

import attrs

from aether_bg._handlers.kept import as_returned
from aether_bg._handlers.registry import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg.errors import NoResult
from aether_bg.model import JobContext, JobInfo, JobRun, JobStatus, Parent, Query, RunOutcome

_NEWEST: Final = 20
"""History rows among which the last completed run of an ended job is found first."""


@attrs.frozen(eq=False)
class Kept:
    _calls: Calls
    _handlers: Handlers

    async def run(self, job: JobInfo) -> JobRun | None:
        """The last attempt of an ended job that completed."""
        for limit in (_NEWEST, 1000):
            for run in await self._calls.history(job.id, limit):
                if run.outcome is RunOutcome.COMPLETED:
                    return run
        return None

    def value(self, job: JobInfo, run: JobRun) -> Any:
        """As its handler returned it. Raises `NoResult`."""
        return as_returned(self._handlers, job, run.result)

    async def parents(self, ctx: JobContext) -> list[Parent]:
        jobs = await self._calls.find(Query(parents_of=ctx.job.id, limit=max(ctx.job.parents, 1)))
        return [await self._parent(job) for job in jobs]

    async def _parent(self, job: JobInfo) -> Parent:
        parent = Parent.of(job)
        run = await self.run(job) if job.status is JobStatus.COMPLETED else None
        if run is None:
            return parent
        try:
            return attrs.evolve(parent, error=run.error, result=self.value(job, run) if run.has_result else None)
        except NoResult as error:
            return attrs.evolve(parent, error=str(error))
