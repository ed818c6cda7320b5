"""Reads kept results again, for `app.result` and `ctx.parents` (docs/protocol.md, K1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import anyio
import attrs

from aether_bg._handlers.kept import as_returned
from aether_bg._handlers.registry import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg.bridge import Bridge
from aether_bg.errors import NoResult
from aether_bg.model import JobContext, JobInfo, JobRun, JobStatus, Parent, Parents, Query, RunOutcome

_NEWEST: Final = 20
"""How many history rows of an ended job are searched first for its last completed run."""

_AT_ONCE: Final = 16
"""How many histories are read at the same time."""


@attrs.frozen(eq=False)
class Kept:
    _calls: Calls
    _handlers: Handlers
    _call: Callable[[Callable[[], Awaitable[None]]], None]
    """Passes a call from another thread to the loop."""
    _bridge: Bridge = attrs.field(factory=Bridge, init=False)

    async def run(self, job: JobInfo) -> JobRun | None:
        """The last completed attempt of an ended job."""
        for limit in (_NEWEST, 1000):
            for run in await self._calls.history(job.id, limit):
                if run.outcome is RunOutcome.COMPLETED:
                    return run
        return None

    def value(self, job: JobInfo, run: JobRun) -> Any:
        """The value as its handler returned it. Raises `NoResult`."""
        return as_returned(self._handlers, job, run.result)

    def parents(self, ctx: JobContext) -> Parents:
        """An awaitable on the loop; in other threads the values are ready when this returns."""
        if self._bridge.is_here:
            return cast(Parents, self._parents(ctx))
        found = Parents()

        async def fill() -> None:
            found.extend(await self._parents(ctx))

        self._call(fill)
        return found

    async def _parents(self, ctx: JobContext) -> list[Parent]:
        jobs = await self._calls.find(Query(parents_of=ctx.job.id, limit=max(ctx.job.parents, 1)))
        found: list[Parent] = [Parent.of(job) for job in jobs]
        left, failed = iter(enumerate(jobs)), list[Exception]()

        async def read() -> None:
            try:
                for place, job in left:
                    found[place] = await self._parent(job)
            except Exception as error:  # raised as it is, not in a group
                failed.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for _ in range(min(_AT_ONCE, len(jobs))):
                group.start_soon(read)
        if failed:
            raise failed[0]
        return found

    async def _parent(self, job: JobInfo) -> Parent:
        parent = Parent.of(job)
        run = await self.run(job) if job.status is JobStatus.COMPLETED else None
        if run is None:
            return parent
        try:
            return attrs.evolve(parent, error=run.error, result=self.value(job, run) if run.has_result else None)
        except NoResult as error:
            return attrs.evolve(parent, error=str(error))
