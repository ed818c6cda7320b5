"""Reads kept results again, for `app.result` and `ctx.parents` (docs/protocol.md, K1)."""

from __future__ import annotations

from typing import Any, Final, cast
from uuid import UUID

import attrs

from aether_bg._handlers.awaited import Across
from aether_bg._handlers.registry import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg.errors import InvalidPayload, NoResult, shown
from aether_bg.model import JobContext, JobInfo, JobRun, JobStatus, Parent, Parents, Query, RunOutcome, Runs

_AT_ONCE: Final = 250
"""Parents whose results are read at once: each may be as large as a payload."""


@attrs.frozen(eq=False)
class Kept:
    _calls: Calls
    _handlers: Handlers
    _across: Across

    async def run(self, job: JobInfo) -> JobRun | None:
        """The last completed attempt of an ended job."""
        return (await self._runs((job.id,))).get(job.id)

    async def _runs(self, ids: tuple[UUID, ...]) -> dict[UUID, JobRun]:
        query = Runs(ids=ids, outcomes=(RunOutcome.COMPLETED,), last=True, whole=True, limit=len(ids))
        return {ran.job_id: ran.run for ran in await self._calls.runs(query) if ran.run is not None}

    def value(self, job: JobInfo, run: JobRun) -> Any:
        """The stored result, converted to the type that its handler returns if that is registered here. Raises
        `NoResult`."""
        name, handlers = job.handler_name, self._handlers
        if name not in handlers or (returns := handlers.compiled(name).returns) is None:
            return run.result
        try:
            return returns.load(run.result)
        except InvalidPayload as error:
            raise NoResult(
                f"the result of job {shown(job.job_name)}", f"it does not fit what its handler returns by now: {error}",
                "app.store.history(id) has it as it is stored.",
            ) from error  # fmt: skip

    def parents(self, ctx: JobContext) -> Parents:
        """An awaitable on the loop; in other threads the values are ready when this returns."""
        found = Parents()

        async def fill() -> list[Parent]:
            found.extend(await self._parents(ctx))
            return found

        return cast(Parents, self._across(fill, found))

    async def _parents(self, ctx: JobContext) -> list[Parent]:
        """In few queries, however many there are."""
        jobs = await self._calls.find(Query(parents_of=ctx.job.id, limit=max(ctx.job.parents, 1)))
        done, runs = [job.id for job in jobs if job.status is JobStatus.COMPLETED], dict[UUID, JobRun]()
        for place in range(0, len(done), _AT_ONCE):
            runs |= await self._runs(tuple(done[place : place + _AT_ONCE]))
        return [self._parent(job, runs.get(job.id)) for job in jobs]

    def _parent(self, job: JobInfo, run: JobRun | None) -> Parent:
        parent = Parent.of(job)
        if run is None:
            return parent
        try:
            return attrs.evolve(parent, error=run.error, result=self.value(job, run) if run.has_result else None)
        except NoResult as error:
            return attrs.evolve(parent, error=str(error))
